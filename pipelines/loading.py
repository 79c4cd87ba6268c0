"""Finds and loads the pipeline of a config: with its weights, or with its model on the meta device."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import tasks
from pipelines.config import JobConfig
from pipelines.errors import ConfigError, ModelError, first_line
from pipelines.phases import Phases
from pipelines.tasks import Task

if TYPE_CHECKING:
    from transformers import Pipeline, PreTrainedConfig, PreTrainedModel

COMPONENTS = ("tokenizer", "feature_extractor", "image_processor", "video_processor", "processor")


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
    if local and not any(path.glob("*.safetensors")) and not any(path.glob("*.bin")):
        raise ModelError(f"model: {config.model} holds no weights (*.safetensors)")
    try:
        return AutoConfig.from_pretrained(_location(config), revision=config.revision, **config.model_kwargs)
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
