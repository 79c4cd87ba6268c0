"""The forward phase: runs the model of one pipeline on batches of model inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching.collating import cast, collate, split
from dray.pipelines.batching.length_buckets import collate_bucketed, has_buckets
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Inputs, Output, Part
from dray.pipelines.batching.staging import Staging
from dray.pipelines.config import JobConfig
from dray.pipelines.generation import continuous, sampling, shrinking
from dray.pipelines.internals.generation import continues_prompts
from dray.pipelines.internals.pipelines import generates
from dray.pipelines.phases.intercept import Arguments, Options
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import Pipeline

CONTINUOUS = 16  # times as many elements are passed to continuous batching, which makes its own batches


class ModelRunner:
    """Runs the model of a pipeline.

    Attributes:
        pipe: the pipeline.
        continues: whether the model continues prompts; batches pad these on the left.
        is_compiled: whether torch has compiled the model.
        has_buckets: whether texts are padded to one of a few lengths.
        is_continuous: whether transformers' continuous batching runs the model.
    """

    def __init__(self, pipe: Pipeline, config: JobConfig, task: Task, arguments: Arguments) -> None:
        """`arguments` are the call arguments of the config and its rows."""
        self.pipe, self._task, self._arguments = pipe, task, arguments
        self.continues = task.trim is sampling.trim and continues_prompts(pipe)
        self.is_compiled = config.engine.compile
        self.has_buckets = self.is_compiled and has_buckets(pipe)
        wanted = config.engine.continuous_batching
        is_wanted = task.continuous and (self.on_accelerator if wanted == "auto" else wanted)
        self.is_continuous = is_wanted and continuous.is_plain(pipe, arguments.forward_params({}))
        self._staging = Staging(self._collated, pipe.device, self.context)

    def use(self, pipe: Pipeline) -> None:
        """Changes to the model of `pipe`, a copy of the pipeline it had."""
        self.pipe = pipe
        self._staging = Staging(self._collated, pipe.device, self.context)

    @property
    def on_accelerator(self) -> bool:
        """Whether the weights are on something other than the CPU."""
        return self.pipe.device.type not in ("cpu", "meta")

    @property
    def generates(self) -> bool:
        """Whether the model generates text, token by token."""
        return generates(self.pipe)

    @property
    def batches_at_once(self) -> int:
        """How many batches' worth of parts one `forward` takes."""
        return CONTINUOUS if self.is_continuous else 1

    @property
    def draws_by_row(self) -> bool:
        """Whether each row of a batch can have its own random numbers."""
        return self._task.trim is sampling.trim

    @property
    def _shrinks(self) -> bool:
        """Whether batches of generated text may shrink: on CPUs, if the model is not compiled and the task is batched."""
        return self.generates and self._task.trim is not None and not (self.on_accelerator or self.is_compiled)

    def forward(self, parts: Sequence[Part]) -> list[Output]:
        """Runs the model on one batch of parts of one group. Returns one output per part, in order, on the CPU."""
        forward_params = self._arguments.forward_params(parts[0].options)
        limits = [
            sampling.new_tokens(self._arguments.forward_params(part.options)) if self.continues else None for part in parts
        ]
        if len(set(limits)) > 1:
            forward_params = sampling.with_new_tokens(forward_params, max(limit for limit in limits if limit is not None))
        callbacks = [part.on_text for part in parts]
        if any(callbacks):
            from dray.pipelines.generation.streaming import with_callbacks

            forward_params = with_callbacks(self.pipe, forward_params, callbacks, limits)
        elif self.is_continuous and continuous.is_plain(self.pipe, forward_params):
            with contextlib.suppress(continuous.Unsupported):
                return self._shortened(parts, continuous.generate(self.pipe, parts, forward_params), limits)
            self.is_continuous = False
        elif self._shrinks:
            forward_params = shrinking.with_shrinking(self.pipe, forward_params)
        with self.context(), self._randomness(parts, forward_params):
            if self._task.forwards_whole:
                return [self._forward_whole(part, forward_params) for part in parts]
            inputs, length = self._staging.take(parts)
            outputs = split(self.pipe.forward(inputs, **forward_params), len(parts), was_collated=length > 0)
        if self._task.trim is not None and (len(parts) > 1 or length):
            trim = self._task.trim
            outputs = [
                trim(self.pipe, part.inputs, output, forward_params) for part, output in zip(parts, outputs, strict=True)
            ]
        return self._shortened(parts, outputs, limits)

    def stage(self, parts: Sequence[Part]) -> None:
        """Starts to collate a later batch and to copy it to the accelerator; does nothing on a CPU."""
        if parts and self.on_accelerator and not self._task.forwards_whole and not self.is_continuous:
            self._staging.begin(parts)

    def unstage(self) -> None:
        """Drops the batches that were staged and not run."""
        self._staging.clear()

    def context(self) -> contextlib.AbstractContextManager[None]:
        """The context in which the model runs: no gradients; on accelerators inference mode, unless weights are quantized.

        Some kinds of quantized weights cannot be used in inference mode.
        """
        import torch

        is_plain = getattr(self.pipe.model.config, "quantization_config", None) is None
        context: contextlib.AbstractContextManager[None] = (
            torch.inference_mode() if self.on_accelerator and is_plain else torch.no_grad()
        )
        return context

    def _collated(self, parts: Sequence[Part]) -> tuple[Inputs, int]:
        """One model input, and the length that its texts were padded to; 0 if that is the length of the longest."""
        inputs, length = collate_bucketed(self.pipe, parts) if self.has_buckets else (collate(self.pipe, parts), 0)
        return cast(inputs, self.pipe.dtype), length

    def _shortened(self, parts: Sequence[Part], outputs: list[Output], limits: Sequence[int | None]) -> list[Output]:
        if len(set(limits)) == 1:
            return outputs
        rows = zip(parts, outputs, limits, strict=True)
        return [sampling.shorten(part.inputs, output, limit) for part, output, limit in rows]

    def _forward_whole(self, part: Part, forward_params: Options) -> Output:
        preprocess_params: Any = part.inputs["preprocess_params"]
        parts = self.pipe.preprocess(part.inputs["inputs"], **preprocess_params)
        outputs = [self.pipe.forward(inputs, **forward_params) for inputs in parts]
        for output in outputs:
            output.pop("is_last", None)
        return outputs

    def _randomness(self, parts: Sequence[Part], forward_params: Options) -> contextlib.AbstractContextManager[object]:
        """A context in which random numbers depend only on the rows' seeds."""
        import torch

        if sampling.samples(self.pipe, forward_params) and self.draws_by_row:
            return sampling.seeded(self.pipe, [part.seed for part in parts])
        if parts[0].group is Sharing.ALONE:
            torch.manual_seed(parts[0].seed)
        return contextlib.nullcontext()
