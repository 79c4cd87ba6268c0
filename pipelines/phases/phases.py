"""The three phases of one transformers pipeline, which can run in different processes.

A pipeline can preprocess and postprocess without weights: with its model on the meta device.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching.collating import elements, plain
from dray.pipelines.batching.length_buckets import bucket
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Output, Part
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ModelError, first_line
from dray.pipelines.generation import sampling
from dray.pipelines.internals.generation import merged_config
from dray.pipelines.internals.models import with_shared_weights
from dray.pipelines.internals.tokenizers import one_at_a_time
from dray.pipelines.media import fetch, values
from dray.pipelines.media.opening import MediaOptions, url
from dray.pipelines.phases.intercept import Arguments, PhaseInputs, intercept, options_key, route
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.model_runner import ModelRunner
from dray.pipelines.phases.output_shape import main_output
from dray.pipelines.tasks import positions, schemas
from dray.pipelines.tasks.schemas import Shape
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import Pipeline


# How many times the task's elements a batch has:
ACCELERATOR = 32  # on an accelerator
TRANSCRIBED = 6  # on a CPU, of speech whose text is generated: 8 of Whisper's inputs of 30 s, 80 x 3,000 elements each
CONTINUED = 2  # on a CPU, of prompts, whose batches shrink
CPU_OVERHEAD = 1 / 16  # Limits.overhead on a CPU, unless media become text
SEEDS = 0x9E3779B97F4A7C15  # times engine.seed is added to a row's key to get the row's seed
CHANGING = ("big_bird", "reformer")  # models that earlier batches change: they switch attention off, or set torch's seed
MEDIA = (values.recording, values.samples, values.image, values.images, values.video)  # arguments that may be URLs to fetch


class Phases:
    """`preprocess`, `forward` and `postprocess` of one pipeline, with the call arguments of one config.

    One after the other they return what `pipeline(...)(item, **parameters)` returns.

    Attributes:
        pipe: the pipeline.
        task: its task.
        runner: runs its model.
        media_options: how media are read.
    """

    def __init__(self, pipe: Pipeline, config: JobConfig, task: Task) -> None:
        """`pipe` is a pipeline for `task`. Raises ModelError if it refuses one of the config's parameters."""
        self.pipe, self.task = pipe, task
        self._engine_seed = config.engine.seed
        rate = getattr(pipe.feature_extractor, "sampling_rate", None) or MediaOptions.rate
        self.media_options = MediaOptions(rate, dict(config.input.storage_options), config.input.max_media_bytes)
        sampling.prepare(pipe)
        self._may_share = pipe.tokenizer is None or pipe.tokenizer.pad_token_id is not None
        one_at_a_time(pipe)
        intercept(pipe)
        _refuse_misplaced(task, config)
        try:
            self._arguments = Arguments(pipe, dict(config.parameters), task.inputs)
            self.runner = ModelRunner(pipe, config, task, self._arguments)
            self.check(Item({}))
        except Exception as error:  # pipelines raise different errors for a wrong argument
            raise ModelError(f"parameters: the {task.name} pipeline does not take them: {first_line(error)}") from None
        self._default_key = options_key(self._arguments.forward_params({}))

    @property
    def on_accelerator(self) -> bool:
        """Whether the weights are on something other than the CPU."""
        return self.runner.on_accelerator

    @property
    def is_compiled(self) -> bool:
        """Whether torch has compiled the model."""
        return self.runner.is_compiled

    @property
    def is_float32(self) -> bool:
        """Whether all weights are float32."""
        import torch

        return all(parameter.dtype == torch.float32 for parameter in self.pipe.model.parameters())

    @property
    def is_tunable(self) -> bool:
        """Whether batch sizes can be tuned: not with continuous batching, nor if the model is compiled for each size."""
        return not (self.runner.is_continuous or self.runner.is_compiled)

    @property
    def is_shareable(self) -> bool:
        """Whether several threads may run the model at once, each with a copy of these phases.

        They may not if another library has placed or quantized the weights, if the model has its own code, which may keep state
        outside of its modules, or if earlier batches change the model.
        """
        model, config = self.pipe.model, self.pipe.model.config
        is_held = getattr(model, "hf_device_map", None) or getattr(config, "quantization_config", None)
        is_own = not type(model).__module__.startswith("transformers.") or getattr(self.pipe, "assistant_model", None)
        is_alone = self.on_accelerator or self.task.forwards_whole or not self.is_tunable
        return not (is_held or is_own or is_alone or config.model_type in CHANGING)

    def copy_with_shared_weights(self) -> Phases:
        """A copy of these phases, with a copy of the model that shares the weights. Raises if the model cannot be copied."""
        phases = copy.copy(self)
        phases.pipe = copy.copy(self.pipe)
        phases.pipe.model = with_shared_weights(self.pipe.model)
        phases.runner = copy.copy(self.runner)
        phases.runner.use(phases.pipe)
        return phases

    def limits(self, batch: int | str) -> Limits:
        """The batch limits for `engine.batch`: a number of parts, or "auto" for the task's budget of elements."""
        if isinstance(batch, int):
            return Limits.fixed(batch)
        if self.on_accelerator:
            return Limits.budget(self.batches_at_once * self.task.elements * ACCELERATOR)
        elements = self.task.elements
        if self.runner.generates and self.task.transcribes:  # each token takes a batch nearly as long as a part
            elements *= TRANSCRIBED
        elif self.runner.continues:
            elements *= CONTINUED
        overhead = Limits.overhead if self.runner.generates and not self.runner.continues else CPU_OVERHEAD
        return Limits.budget(self.batches_at_once * elements, overhead)

    def schema(self, columns: Mapping[str, pa.DataType]) -> pa.DataType:
        """The Arrow type of a prediction. `columns`: argument -> Arrow type of its column."""
        options = self._arguments.given({})
        output = (
            main_output(self.pipe, self.task, self.media_options, options) if self.task.schema is schemas.features else None
        )
        return self.task.schema(Shape(self.pipe, {**options, **self._arguments.postprocess_params({})}, columns, output))

    def fetched(self, item: Item) -> Item:
        """The item with the content of its URLs, or the errors that fetching raised, as values."""
        urls = {name for name, cell in item.values.items() if self.task.arguments[name] in MEDIA and url(cell)}
        if not urls:
            return item
        return Item({**item.values, **{name: self._fetched(item.values[name]) for name in urls}}, item.options, item.key)

    def _fetched(self, cell: object) -> object:
        try:
            return fetch.fetch(url(cell) or "", self.media_options.storage_options, self.media_options.max_bytes)
        except Exception as error:  # raised when the value is opened
            return error

    def preprocess(self, item: Item) -> Iterator[Part]:
        """Yields the parts of one item, each made when it is needed. Raises the pipeline's own error for a bad item."""
        try:
            yield from self._parts(item)
        except Exception as error:
            hint = next((hint for fragment, hint in self.task.hints.items() if fragment in str(error)), None)
            if hint is None:
                raise
            raise ValueError(hint) from error

    @property
    def batches_at_once(self) -> int:
        """How many batches' worth of parts one `forward` takes."""
        return self.runner.batches_at_once

    def forward(self, parts: Sequence[Part]) -> list[Output]:
        """Runs the model on one batch of parts of one group. Returns one output per part, in order, on the CPU."""
        return self.runner.forward(parts)

    def stage(self, parts: Sequence[Part]) -> None:
        """Starts to collate a later batch and to copy it to the accelerator; does nothing on a CPU."""
        self.runner.stage(parts)

    def unstage(self) -> None:
        """Drops the batches that were staged and not run."""
        self.runner.unstage()

    def check(self, item: Item) -> None:
        """Raises the pipeline's own error if it refuses the call arguments of this row."""
        forward_params = self._arguments.forward_params(item.options)
        if self.runner.generates:
            sampling.check(self.pipe, forward_params)

    def most_tokens(self, item: Item) -> int | None:
        """The most tokens that are generated for an item; None where `max_new_tokens` does not limit them."""
        if not self.runner.generates:
            return None
        number = merged_config(self.pipe, self._arguments.forward_params(item.options)).max_new_tokens
        return None if number is None else int(number)

    def decode(self, item: Item) -> dict[str, object]:
        """The pipeline's arguments from the item's values, the main one first. Raises if a value is of the wrong kind."""
        decoded = {name: self.task.arguments[name](cell, self.media_options) for name, cell in item.values.items()}
        return {self.task.inputs[0]: None, **decoded}

    def _parts(self, item: Item) -> Iterator[Part]:
        decoded = self.decode(item)
        options = {key: value for key, value in self._arguments.given(item.options).items() if key not in decoded}
        routed = route(self.task.call, self.pipe, decoded, options)
        changed = dict(item.options) if options_key(routed.forward_params) != self._default_key else {}
        # Rows with different numbers of new tokens may share a batch: the surplus is cut off.
        may_cut = self.runner.continues and sampling.is_prefix_of_longer(self.pipe, routed.forward_params)
        key = options_key(sampling.with_new_tokens(routed.forward_params, None) if may_cut else routed.forward_params)
        is_alone = not self._may_share or (sampling.samples(self.pipe, routed.forward_params) and not self.runner.draws_by_row)
        for inputs, seconds in self._model_inputs(routed):
            if self.runner.continues and "input_ids" in inputs:
                sampling.refuse_endless(self.pipe, inputs)
            positions.refuse_longer(inputs, self._positions)
            cost = self._cost(inputs)
            shares = self.task.shares(self.pipe, inputs, routed.forward_params) if cost and not is_alone else Sharing.ALONE
            group = Sharing.ALONE if shares is Sharing.ALONE else (key, shares)
            space = bucket(self.pipe, inputs) if self.runner.has_buckets else 0
            yield Part(inputs, cost, changed, group, seconds, self._seed(item), item.key, space, item.on_text)

    def _cost(self, inputs: Mapping[str, Any]) -> int:
        """The tokens of a prompt that is continued, pictures not counted; otherwise the elements of the largest tensor."""
        if self.runner.continues and "input_ids" in inputs:
            return int(inputs["input_ids"].numel())
        return elements(inputs)

    def postprocess(self, outputs: list[Output], item: Item) -> object:
        """The prediction of one item from the outputs of all its parts, in order."""
        postprocess_params = {**self._arguments.postprocess_params(item.options), **self.task.postprocess_defaults}
        if self.task.forwards_whole:
            (outputs,) = outputs
        with self.runner.context():  # outside of inference mode its tensors cannot be changed in place
            prediction = self.pipe.postprocess(outputs if self._is_chunked else outputs[0], **postprocess_params)
        return self.task.to_output(prediction)

    @functools.cached_property
    def _positions(self) -> int | None:
        return positions.known(self.pipe, self.task)

    @functools.cached_property
    def _is_chunked(self) -> bool:
        from transformers.pipelines.base import ChunkPipeline

        return isinstance(self.pipe, ChunkPipeline)

    def _model_inputs(self, routed: PhaseInputs) -> Iterator[tuple[dict[str, Any], float]]:
        if self.task.preprocess is not None:
            yield from self.task.preprocess(self.pipe, routed.inputs, self.media_options, **routed.preprocess_params)
        elif self.task.forwards_whole:
            yield {"inputs": routed.inputs, "preprocess_params": routed.preprocess_params}, 0.0
        else:
            prepared = self.pipe.preprocess(routed.inputs, **routed.preprocess_params)
            for inputs in prepared if self._is_chunked else [prepared]:
                yield plain(inputs), 0.0

    def _seed(self, item: Item) -> int:
        return (item.key + self._engine_seed * SEEDS) % (1 << 63)


def _refuse_misplaced(task: Task, config: JobConfig) -> None:
    """Raises ModelError for parameters that belong elsewhere in the config."""
    for name in ("batch_size", "num_workers"):
        if name in config.parameters:
            raise ModelError(f"parameters.{name}: dray makes the batches itself; engine.batch limits them")
    if task.inputs[0] in config.parameters:
        raise ModelError(f"parameters.{task.inputs[0]}: that is what every row gives; set input.columns.{task.inputs[0]}")
