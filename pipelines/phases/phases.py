"""One transformers pipeline as its three phases, each callable where it belongs.

With its model on the meta device, without weights, a pipeline still preprocesses and postprocesses.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching.collating import cast, collate, elements, plain, split
from dray.pipelines.batching.length_buckets import bucket, collate_bucketed, has_buckets
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Inputs, Limits, Output, Part
from dray.pipelines.batching.staging import Staging
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ModelError, first_line
from dray.pipelines.generation import continuous, sampling, shrinking
from dray.pipelines.internals.generation import continues_prompts, merged_config
from dray.pipelines.internals.models import with_shared_weights
from dray.pipelines.internals.tokenizers import one_at_a_time
from dray.pipelines.media import fetch, values
from dray.pipelines.media.opening import MediaOptions, url
from dray.pipelines.phases.intercept import Arguments, Options, Routed, intercept, options_key, route
from dray.pipelines.phases.output_shape import main_output
from dray.pipelines.tasks import positions, schemas, table
from dray.pipelines.tasks.schemas import Shape
from dray.pipelines.tasks.table import Task

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import Pipeline

    from dray.pipelines.batching.parts import Listener

SEEDS = 0x9E3779B97F4A7C15  # apart that engine.seed moves a row's own seed
CHANGING = ("big_bird", "reformer")  # models whose answers depend on the batches before: attention given up, torch's seed set
CONTINUOUS = 16  # times as much is handed to continuous batching, which makes its own batches
MEDIA = (values.recording, values.samples, values.image, values.images, values.video)  # whose cells may be URLs to fetch


@dataclass
class Item:
    """One row's input.

    Attributes:
        values: argument of the pipeline -> the value in its cell.
        options: this row's other call arguments, which override the config's.
        key: of the row; the random numbers that its generation draws come from it.
        listener: hears of its text as it is generated.
    """

    values: Mapping[str, object]
    options: Mapping[str, object] = field(default_factory=dict)
    key: int = 0
    listener: Listener | None = None


class Phases:
    """`preprocess`, `forward` and `postprocess` of one pipeline, with the call arguments of one config.

    Applied one after the other they give what `pipeline(...)(item, **parameters)` gives.

    Attributes:
        pipe: the pipeline.
        task: what it serves.
        is_compiled: whether its model is.
    """

    def __init__(self, pipe: Pipeline, config: JobConfig, task: Task) -> None:
        """`pipe` is a pipeline for `task`. Raises ModelError where it refuses one of the config's parameters."""
        self.pipe, self.task = pipe, task
        self._engine_seed = config.engine.seed
        rate = getattr(pipe.feature_extractor, "sampling_rate", None) or MediaOptions.rate
        self.media_options = MediaOptions(rate, dict(config.input.storage_options), config.input.max_media_bytes)
        sampling.prepare(pipe)
        self._continues = task.trim is sampling.trim and continues_prompts(pipe)
        self.is_compiled = config.engine.compile
        self._has_buckets = self.is_compiled and has_buckets(pipe)
        self._staging = Staging(self._collated, pipe.device, self._context)
        self._may_share = pipe.tokenizer is None or pipe.tokenizer.pad_token_id is not None
        one_at_a_time(pipe)
        intercept(pipe)
        _refuse_misplaced(task, config)
        try:
            self._arguments = Arguments(pipe, dict(config.parameters), task.inputs)
            self.check(Item({}))
        except Exception as error:  # whatever the pipeline makes of a wrong argument
            raise ModelError(f"parameters: the {task.name} pipeline does not take them: {first_line(error)}") from None
        wanted = config.engine.continuous_batching
        continues = task.continuous and (self.on_accelerator if wanted == "auto" else wanted)
        self._is_continuous = continues and continuous.is_plain(pipe, self._arguments.during({}))
        self._default_key = options_key(self._arguments.during({}))

    @property
    def on_accelerator(self) -> bool:
        """Whether the weights are on something other than the CPU."""
        return self.pipe.device.type not in ("cpu", "meta")

    @property
    def is_float32(self) -> bool:
        """Whether all weights are of full precision."""
        import torch

        return all(parameter.dtype == torch.float32 for parameter in self.pipe.model.parameters())

    @property
    def _generates(self) -> bool:
        return bool(self.pipe._pipeline_calls_generate and self.pipe.model.can_generate())

    @property
    def _shrinks(self) -> bool:
        """Whether batches of generated text may shrink: where there are batches, and nothing was compiled for their size."""
        return self._generates and self.task.trim is not None and not (self.on_accelerator or self.is_compiled)

    @property
    def batches_at_once(self) -> int:
        """How many budgets of parts the model is given at once."""
        return CONTINUOUS if self._is_continuous else 1

    @property
    def is_tunable(self) -> bool:
        """Whether trials of batches tell anything: not where transformers makes its own, or each first waits for a compiler."""
        return not (self._is_continuous or self.is_compiled)

    @property
    def is_shareable(self) -> bool:
        """Whether several threads may run the model at once, each with a twin of these phases.

        Not what other libraries keep hold of, nor code of the model's own, which may keep something outside of its modules, nor
        models that batches change for good.
        """
        model, config = self.pipe.model, self.pipe.model.config
        is_held = getattr(model, "hf_device_map", None) or getattr(config, "quantization_config", None)
        is_own = not type(model).__module__.startswith("transformers.") or getattr(self.pipe, "assistant_model", None)
        is_alone = self.on_accelerator or self.task.forwards_whole or not self.is_tunable
        return not (is_held or is_own or is_alone or config.model_type in CHANGING)

    def twin(self) -> Phases:
        """The same with a model of its own around the same weights. Raises whatever keeps the model from being copied."""
        twin = copy.copy(self)
        twin.pipe = copy.copy(self.pipe)
        twin.pipe.model = with_shared_weights(self.pipe.model)
        twin._staging = Staging(twin._collated, twin.pipe.device, twin._context)
        return twin

    def limits(self, batch: int | str) -> Limits:
        """The batch limits of `engine.batch`: a number of parts, or "auto" for the task's budget of elements."""
        if isinstance(batch, int):
            return Limits.fixed(batch)
        if self.on_accelerator:
            return Limits.budget(self.batches_at_once * self.task.elements * table.ACCELERATOR)
        elements = self.task.elements
        if self._generates and elements == table.AUDIO:  # each token takes a batch nearly as long as a part
            elements *= table.DICTATED
        elif self._continues:
            elements *= table.CONTINUED
        overhead = Limits.overhead if self._generates and not self._continues else table.CPU_OVERHEAD
        return Limits.budget(self.batches_at_once * elements, overhead)

    def schema(self, columns: Mapping[str, pa.DataType]) -> pa.DataType:
        """The Arrow type of a prediction, given the types of the columns of arguments."""
        options = self._arguments.given({})
        output = (
            main_output(self.pipe, self.task, self.media_options, options) if self.task.schema is schemas.features else None
        )
        return self.task.schema(Shape(self.pipe, {**options, **self._arguments.after({})}, columns, output))

    def fetched(self, item: Item) -> Item:
        """The item with what its URLs name, or the errors that fetching raised, in their cells."""
        urls = {name for name, cell in item.values.items() if self.task.arguments[name] in MEDIA and url(cell)}
        if not urls:
            return item
        return Item({**item.values, **{name: self._fetched(item.values[name]) for name in urls}}, item.options, item.key)

    def _fetched(self, cell: object) -> object:
        try:
            return fetch.fetch(url(cell) or "", self.media_options.storage_options, self.media_options.max_bytes)
        except Exception as error:  # raised where the cell is opened
            return error

    def preprocess(self, item: Item) -> Iterator[Part]:
        """The parts of one item, made as they are asked for. Raises whatever the pipeline makes of a bad item."""
        try:
            yield from self._parts(item)
        except Exception as error:
            hint = next((hint for fragment, hint in self.task.hints.items() if fragment in str(error)), None)
            if hint is None:
                raise
            raise ValueError(hint) from error

    def check(self, item: Item) -> None:
        """Raises what the pipeline makes of the call arguments of this row."""
        during = self._arguments.during(item.options)
        if self._generates:
            sampling.check(self.pipe, during)

    def most_tokens(self, item: Item) -> int | None:
        """Tokens that are generated for an item at most; None where no number bounds them, whatever the prompt."""
        if not self._generates:
            return None
        number = merged_config(self.pipe, self._arguments.during(item.options)).max_new_tokens
        return None if number is None else int(number)

    def decode(self, item: Item) -> dict[str, object]:
        """The pipeline's arguments from the item's cells, the main one first. Raises where they hold nothing of the kind."""
        decoded = {name: self.task.arguments[name](cell, self.media_options) for name, cell in item.values.items()}
        return {self.task.inputs[0]: None, **decoded}

    def _parts(self, item: Item) -> Iterator[Part]:
        decoded = self.decode(item)
        options = {key: value for key, value in self._arguments.given(item.options).items() if key not in decoded}
        routed = route(self.task.call, self.pipe, decoded, options)
        changed = dict(item.options) if options_key(routed.during) != self._default_key else {}
        # Rows that want more or fewer tokens may share a batch: what is too much is cut off.
        may_cut = self._continues and sampling.is_prefix_of_longer(self.pipe, routed.during)
        key = options_key(sampling.with_new_tokens(routed.during, None) if may_cut else routed.during)
        is_alone = not self._may_share or (sampling.samples(self.pipe, routed.during) and not self._samples_together)
        for inputs, seconds in self._model_inputs(routed):
            if self._continues and "input_ids" in inputs:
                sampling.refuse_endless(self.pipe, inputs)
            positions.refuse_longer(inputs, self._positions)
            cost = self._cost(inputs)
            shares = self.task.shares(self.pipe, inputs, routed.during) if cost and not is_alone else Sharing.ALONE
            group = Sharing.ALONE if shares is Sharing.ALONE else (key, shares)
            space = bucket(self.pipe, inputs) if self._has_buckets else 0
            yield Part(inputs, cost, changed, group, seconds, self._seed(item), item.key, space, item.listener)

    def forward(self, parts: Sequence[Part]) -> list[Output]:
        """Runs the model on one batch of parts of one group. One output per part, in order, on the CPU."""
        during = self._arguments.during(parts[0].options)
        limits = [sampling.new_tokens(self._arguments.during(part.options)) if self._continues else None for part in parts]
        if len(set(limits)) > 1:
            during = sampling.with_new_tokens(during, max(limit for limit in limits if limit is not None))
        listeners = [part.listener for part in parts]
        if any(listeners):
            from dray.pipelines.generation.streaming import heard

            during = heard(self.pipe, during, listeners, limits)
        elif self._is_continuous and continuous.is_plain(self.pipe, during):
            with contextlib.suppress(continuous.Unsupported):
                return self._shortened(parts, continuous.generate(self.pipe, parts, during), limits)
            self._is_continuous = False
        elif self._shrinks:
            during = shrinking.handed(self.pipe, during)
        with self._context(), self._randomness(parts, during):
            if self.task.forwards_whole:
                return [self._forward_whole(part, during) for part in parts]
            inputs, length = self._staging.take(parts)
            outputs = split(self.pipe.forward(inputs, **during), len(parts), was_collated=length > 0)
        if self.task.trim is not None and (len(parts) > 1 or length):
            trim = self.task.trim
            outputs = [trim(self.pipe, part.inputs, output, during) for part, output in zip(parts, outputs, strict=True)]
        return self._shortened(parts, outputs, limits)

    def stage(self, parts: Sequence[Part]) -> None:
        """Begins to collate a batch that is soon to be run, and to copy it to the accelerator, where there is one."""
        if parts and self.on_accelerator and not self.task.forwards_whole and not self._is_continuous:
            self._staging.begin(parts)

    def unstage(self) -> None:
        """Forgets what was staged and not run."""
        self._staging.clear()

    def _context(self) -> contextlib.AbstractContextManager[None]:
        """Without gradients; on accelerators in inference mode, which some kinds of quantized weights cannot be used in."""
        import torch

        is_plain = getattr(self.pipe.model.config, "quantization_config", None) is None
        context: contextlib.AbstractContextManager[None] = (
            torch.inference_mode() if self.on_accelerator and is_plain else torch.no_grad()
        )
        return context

    def _collated(self, parts: Sequence[Part]) -> tuple[Inputs, int]:
        """One input of the model, and the length that its texts were padded to, where that is more than was needed."""
        inputs, length = collate_bucketed(self.pipe, parts) if self._has_buckets else (collate(self.pipe, parts), 0)
        return cast(inputs, self.pipe.dtype), length

    def _shortened(self, parts: Sequence[Part], outputs: list[Output], limits: Sequence[int | None]) -> list[Output]:
        if len(set(limits)) == 1:
            return outputs
        rows = zip(parts, outputs, limits, strict=True)
        return [sampling.shorten(part.inputs, output, limit) for part, output, limit in rows]

    def _cost(self, inputs: Mapping[str, Any]) -> int:
        """Tokens where a prompt is continued, whatever pictures come with it; elements of the largest tensor elsewhere."""
        if self._continues and "input_ids" in inputs:
            return int(inputs["input_ids"].numel())
        return elements(inputs)

    def postprocess(self, outputs: list[Output], item: Item) -> object:
        """The prediction of one item from the outputs of all its parts, in order."""
        after = {**self._arguments.after(item.options), **self.task.forced}
        if self.task.forwards_whole:
            (outputs,) = outputs
        with self._context():  # what came from inference mode may not be changed in place outside of it
            prediction = self.pipe.postprocess(outputs if self._is_chunked else outputs[0], **after)
        return self.task.to_output(prediction)

    @functools.cached_property
    def _positions(self) -> int | None:
        return positions.known(self.pipe, self.task.name)

    @functools.cached_property
    def _is_chunked(self) -> bool:
        from transformers.pipelines.base import ChunkPipeline

        return isinstance(self.pipe, ChunkPipeline)

    @functools.cached_property
    def _samples_together(self) -> bool:
        """Whether rows that share a batch can draw from random numbers of their own."""
        return self.task.trim is sampling.trim

    def _model_inputs(self, routed: Routed) -> Iterator[tuple[dict[str, Any], float]]:
        if self.task.preprocess is not None:
            yield from self.task.preprocess(self.pipe, routed.inputs, self.media_options, **routed.before)
        elif self.task.forwards_whole:
            yield {"inputs": routed.inputs, "before": routed.before}, 0.0
        else:
            prepared = self.pipe.preprocess(routed.inputs, **routed.before)
            for inputs in prepared if self._is_chunked else [prepared]:
                yield plain(inputs), 0.0

    def _forward_whole(self, part: Part, during: Options) -> Output:
        before: Any = part.inputs["before"]
        parts = self.pipe.preprocess(part.inputs["inputs"], **before)
        outputs = [self.pipe.forward(inputs, **during) for inputs in parts]
        for output in outputs:
            output.pop("is_last", None)
        return outputs

    def _randomness(self, parts: Sequence[Part], during: Options) -> contextlib.AbstractContextManager[object]:
        """Random numbers that depend on nothing but the rows' seeds."""
        import torch

        if sampling.samples(self.pipe, during) and self._samples_together:
            return sampling.seeded(self.pipe, [part.seed for part in parts])
        if parts[0].group is Sharing.ALONE:
            torch.manual_seed(parts[0].seed)
        return contextlib.nullcontext()

    def _seed(self, item: Item) -> int:
        return (item.key + self._engine_seed * SEEDS) % (1 << 63)


def _refuse_misplaced(task: Task, config: JobConfig) -> None:
    """Raises ModelError for parameters that are no call arguments here."""
    for name in ("batch_size", "num_workers"):
        if name in config.parameters:
            raise ModelError(f"parameters.{name}: dray makes the batches itself; engine.batch limits them")
    if task.inputs[0] in config.parameters:
        raise ModelError(f"parameters.{task.inputs[0]}: that is what every row gives; set input.columns.{task.inputs[0]}")
