"""One transformers pipeline as its three phases, each callable where it belongs.

`Phases` without weights holds the pipeline with its model on the meta device: enough to preprocess and postprocess.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import tasks
from pipelines.batching import Limits, Output, Part, collate, split
from pipelines.config import JobConfig
from pipelines.errors import ConfigError, ModelError
from pipelines.tasks import Task

if TYPE_CHECKING:
    import pyarrow as pa
    import torch
    from transformers import Pipeline, PreTrainedConfig, PreTrainedModel

Options = dict[str, object]
COMPONENTS = ("tokenizer", "feature_extractor", "image_processor", "video_processor", "processor")


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


def load_phases(config: JobConfig, weights: bool, device: str = "cpu") -> Phases:
    """Loads the config's pipeline.

    Args:
        config: the job.
        weights: False: the model stays on the meta device and cannot run `forward`.
        device: for the weights, where `engine.device` is auto.

    Raises:
        ConfigError: no such task.
        ModelError: the model cannot be loaded, does not fit the task or refuses a parameter.
    """
    task = resolve_task(config)
    try:
        pipe = _with_weights(config, task, device) if weights else _without_weights(config, task)
    except (ModelError, ConfigError):
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for models it cannot load
        raise ModelError(f"model: cannot load {config.model} for {task.name}: {first_line(error)}") from error
    return Phases(pipe, config, task)


def resolve_task(config: JobConfig) -> Task:
    """The config's task, or the first one that the model's architecture serves. Raises ConfigError or ModelError."""
    if config.task is not None:
        return tasks.find_task(config.task)
    from transformers.pipelines import SUPPORTED_TASKS

    architectures = set(_model_config(config).architectures or ())
    for task in tasks.TASKS.values():
        for auto_class in SUPPORTED_TASKS[task.name]["pt"]:
            if architectures & {name for entry in auto_class._model_mapping.values() for name in _names(entry)}:
                return task
    raise ConfigError(
        f"task is missing, and cannot be inferred from {config.model} ({', '.join(architectures) or 'no architecture'})"
    )


def _names(entry: type | tuple[type, ...]) -> list[str]:
    return [model.__name__ for model in (entry if isinstance(entry, tuple) else (entry,))]


def _model_config(config: JobConfig) -> PreTrainedConfig:
    from transformers import AutoConfig

    path = Path(config.model).expanduser()
    local = path.exists() or config.model.startswith((".", "/", "~")) or config.model.count("/") > 1
    if local and not path.is_dir():
        raise ModelError(f"model: there is no folder {config.model}")
    if local and not (path / "config.json").is_file():
        raise ModelError(f"model: {config.model} holds no config.json, so it is not a model saved by transformers")
    try:
        return AutoConfig.from_pretrained(_location(config), revision=config.revision)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        raise ModelError(f"model: cannot load {config.model}: {first_line(error)}") from None


def _location(config: JobConfig) -> str:
    return str(Path(config.model).expanduser()) if config.model.startswith("~") else config.model


def _with_weights(config: JobConfig, task: Task, device: str) -> Pipeline:
    from transformers import pipeline

    _model_config(config)
    engine = config.engine
    wanted = device if engine.device == "auto" else engine.device
    pipe = pipeline(
        task.name,
        model=_location(config),
        revision=config.revision,
        device=None if engine.device_map is not None else wanted,
        device_map=engine.device_map,
        dtype=engine.dtype,
        model_kwargs=dict(config.model_kwargs),
    )
    pipe.model.eval()
    if engine.compile:
        pipe.model.compile()
    return pipe


def _without_weights(config: JobConfig, task: Task) -> Pipeline:
    import torch
    from transformers import pipeline
    from transformers.pipelines import SUPPORTED_TASKS, _resolve_impl

    pipeline_class = _resolve_impl(SUPPORTED_TASKS[task.name]["impl"])
    wanted = [name for name in COMPONENTS if getattr(pipeline_class, f"_load_{name}") is not False]
    return pipeline(
        task.name,
        model=_meta_model(config, SUPPORTED_TASKS[task.name]["pt"]),
        config=_location(config),
        device=torch.device("meta"),
        revision=config.revision,
        **dict.fromkeys(wanted, _location(config)),
    )


def _meta_model(config: JobConfig, auto_classes: Sequence[Any]) -> PreTrainedModel:
    import torch
    from transformers import GenerationConfig

    model_config = _model_config(config)
    dtype = getattr(torch, config.engine.dtype, None) or model_config.dtype or torch.float32
    for auto_class in auto_classes:
        if type(model_config) in auto_class._model_mapping:
            with torch.device("meta"):
                model = auto_class.from_config(model_config, dtype=dtype)
            break
    else:
        raise ModelError(f"model: {config.model} is a {type(model_config).__name__}, which does not serve this task")
    if model.can_generate():
        with contextlib.suppress(OSError):  # the model has none of its own and keeps its config's
            model.generation_config = GenerationConfig.from_pretrained(_location(config), revision=config.revision)
    return model


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


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its class where the message is empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def model_identity(config: JobConfig, phases: Phases) -> str:
    """What tells two versions of a model apart: a hub model's commit, or a hash over a local folder's files.

    Files above 64 MiB, the weights, count with their size and their first and last MiB.
    """
    folder = Path(_location(config))
    if not folder.is_dir():
        return str(getattr(phases.pipe.model.config, "_commit_hash", None) or config.revision or "main")
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.suffix not in (".md", ".py") and path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as content:
            if size <= 64 << 20:
                digest.update(content.read())
            else:
                digest.update(content.read(1 << 20))
                content.seek(-(1 << 20), 2)
                digest.update(content.read())
    return digest.hexdigest()[:16]
