"""One transformers pipeline as its three phases, each callable where it belongs.

With its model on the meta device, without weights, a pipeline still preprocesses and postprocesses.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from pipelines import tasks
from pipelines.batching import Limits, Output, Part, collate, split
from pipelines.config import JobConfig
from pipelines.errors import ModelError, first_line
from pipelines.tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import Pipeline

Options = dict[str, object]


class Phases:
    """`preprocess`, `forward` and `postprocess` of one pipeline, with the call arguments of one config.

    Applied one after the other they give what `pipeline(...)(item, **parameters)` gives.
    """

    def __init__(self, pipe: Pipeline, config: JobConfig, task: Task) -> None:
        """`pipe` is a pipeline for `task`. Raises ModelError where it refuses one of the config's parameters."""
        self.pipe, self.task = pipe, task
        self._parameters = dict(config.parameters)
        self._storage_options = dict(config.input.storage_options)
        self._equal_lengths = task.equal_lengths(pipe)
        try:
            self._defaults = self._phase_options({})
        except Exception as error:  # whatever the pipeline makes of a wrong argument
            raise ModelError(f"parameters: the {task.name} pipeline does not take them: {first_line(error)}") from None

    @property
    def on_accelerator(self) -> bool:
        """Whether the weights are on something other than the CPU."""
        return self.pipe.device.type not in ("cpu", "meta")

    def limits(self, batch: int | str) -> Limits:
        """The batch limits of `engine.batch`: a number of parts, or "auto" for the task's budget of elements."""
        if isinstance(batch, int):
            return Limits.fixed(batch)
        return Limits.budget(self.task.elements * (tasks.ACCELERATOR if self.on_accelerator else 1))

    def schema(self) -> pa.DataType:
        """The Arrow type of a prediction."""
        return self.task.schema(self._defaults[2])

    def preprocess(self, item: object, row_options: Mapping[str, object]) -> Iterator[Part]:
        """The parts of one item, made as they are asked for.

        Args:
            item: what the pipeline takes as its input; for speech, an audio cell.
            row_options: call arguments of this row, which override the config's.
        """
        before, during, _ = self._options(row_options)
        group = _key(during)
        for inputs, seconds in self._model_inputs(item, before):
            cost = _elements(inputs)
            yield Part(inputs, cost, during, (group, cost if self._equal_lengths else None), seconds)

    def forward(self, parts: Sequence[Part]) -> list[Output]:
        """Runs the model on one batch of parts of one group. One output per part, in order, on the CPU."""
        import torch

        with torch.inference_mode():
            inputs = _cast(collate(self.pipe, parts), self.pipe.dtype)
            outputs = split(self.pipe.forward(inputs, **parts[0].options), len(parts))
        if self.task.trim is not None:
            trim = self.task.trim
            outputs = [trim(self.pipe, part.inputs, output) for part, output in zip(parts, outputs, strict=True)]
        return outputs

    def postprocess(self, outputs: list[Output], row_options: Mapping[str, object]) -> object:
        """The prediction of one item from the outputs of all its parts, in order."""
        after = self._options(row_options)[2]
        prediction = self.pipe.postprocess(outputs if self._is_chunked else outputs[0], **after)
        return self.task.present(prediction, after)

    @functools.cached_property
    def _is_chunked(self) -> bool:
        from transformers.pipelines.base import ChunkPipeline

        return isinstance(self.pipe, ChunkPipeline)

    def _model_inputs(self, item: object, options: Options) -> Iterator[tuple[dict[str, object], float]]:
        if self.task.preprocess is not None:
            yield from self.task.preprocess(self.pipe, item, self._storage_options, **options)
        elif self._is_chunked:
            for inputs in self.pipe.preprocess(item, **options):
                yield dict(inputs), 0.0
        else:
            yield dict(self.pipe.preprocess(item, **options)), 0.0

    def _options(self, row_options: Mapping[str, object]) -> tuple[Options, Options, Options]:
        return self._phase_options(row_options) if row_options else self._defaults

    def _phase_options(self, row_options: Mapping[str, object]) -> tuple[Options, Options, Options]:
        """Call arguments sorted to the phases as `Pipeline.__call__` does it."""
        pipe = self.pipe
        own = (pipe._preprocess_params, pipe._forward_params, pipe._postprocess_params)
        called = pipe._sanitize_parameters(**{**self._parameters, **row_options})
        before, during, after = ({**mine, **theirs} for mine, theirs in zip(own, called, strict=True))
        return before, during, after


def _elements(inputs: Mapping[str, object]) -> int:
    """Elements of the largest tensor; the masks beside it are no larger."""
    import torch

    return max((value.numel() for value in inputs.values() if isinstance(value, torch.Tensor)), default=1)


def _cast(inputs: dict[str, object], dtype: torch.dtype) -> dict[str, object]:
    """Floating-point inputs in the weights' dtype, which the meta model may not have known."""
    import torch

    return {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in inputs.items()
    }


def _key(options: Mapping[str, object]) -> str:
    return repr(sorted(options.items())) if options else ""
