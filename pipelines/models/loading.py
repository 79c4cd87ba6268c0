"""Finds and loads the pipeline of a config: with its weights, or with its model on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from dray.pipelines.batching.length_buckets import compile_model
from dray.pipelines.config import OPENAI, JobConfig
from dray.pipelines.errors import ConfigError, ModelError
from dray.pipelines.internals.linear import pack_linears
from dray.pipelines.models import choosing
from dray.pipelines.models.model import explained, load_config, with_weights, without_weights
from dray.pipelines.models.model_kwargs import Kwargs, ModelKwargs, sort_kwargs
from dray.pipelines.models.weights import ModelSource, locate, refused_code, version
from dray.pipelines.phases.phases import Phases
from dray.pipelines.tasks import table
from dray.pipelines.tasks.table import Task

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline, PreTrainedModel

T = TypeVar("T")
COMPONENTS = ("tokenizer", "feature_extractor", "image_processor", "video_processor", "processor")


def load_phases(config: JobConfig, weights: bool, device: str = "cpu") -> Phases:
    """Loads the config's pipeline.

    Args:
        config: the job.
        weights: False: the model stays on the meta device and cannot run `forward`.
        device: for the weights, where `engine.device` is auto.

    Raises:
        ConfigError: no such task, or an argument that is set elsewhere in the config.
        ModelError: the model cannot be loaded, does not fit the task or refuses a parameter.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    task = resolve_task(config)
    kwargs = sort_kwargs(config)
    source = locate(config, task.name, weights)
    try:
        model = with_weights(config, task, source, kwargs, device) if weights else without_weights(config, task, source, kwargs)
        pipe = _pipeline(task, source, kwargs, model)
    except (ModelError, ConfigError):
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for models it cannot load
        raise explained(error, source, kwargs, f" for {task.name}") from error
    if weights and config.engine.compile:
        compile_model(pipe)
    elif weights:
        pack_linears(pipe.model)
    if config.input.format == OPENAI:
        from dray.pipelines.protocols.batch import Requests

        return Requests(pipe, config, task)
    return Phases(pipe, config, task)


def in_passing_thread(load: Callable[[], T]) -> T:
    """What `load` gives, from a thread that ends with it, and with it the threads that torch has started for it.

    Each thread that calls torch gets helpers of its own, which stay. Where they are more than the cores, libgomp lets all of
    them sleep between two operations instead of spinning, and a model of many small operations takes up to 1.4 times as long.
    """
    with ThreadPoolExecutor(1, "loading") as threads:
        return threads.submit(load).result()


def resolve_task(config: JobConfig) -> Task:
    """The config's task; or what the model's card, the hub or else the model's architecture says.

    Raises:
        ConfigError: no such task, or none can be inferred; or none that the input's format goes with.
        ModelError: the model whose task is to be inferred cannot be loaded.
    """
    task = _resolved(config)
    if config.input.format != OPENAI:
        return task
    from dray.pipelines.protocols.batch import task_of

    return task_of(task)


def _resolved(config: JobConfig) -> Task:
    if config.task is not None:
        return table.find_task(config.task)
    kwargs = sort_kwargs(config)
    source = locate(config, None, weights=False)
    if source.is_local:
        tag = choosing.card_tag(Path(source.location))
    else:
        tag = choosing.hub_tag(source.location, source.revision, kwargs.access["token"])
    tagged = choosing.by_tag(tag)
    if tagged is not None:
        return tagged
    model_config = load_config(source, kwargs)
    task = choosing.by_architecture(model_config)
    if task is None:
        names = ", ".join(model_config.architectures or ()) or "no architecture"
        raise ConfigError(f"task is missing, and cannot be inferred from {source.name} ({names})")
    return task


def model_identity(config: JobConfig, phases: Phases) -> str:
    """What tells two versions of a model apart: a commit, or a hash over the files of a local folder or in a store."""
    source = locate(config, phases.task.name, weights=False)
    return version(source, with_code=config.model_kwargs.get("trust_remote_code") is True)


def pinned(config: JobConfig, task: Task, identity: str) -> JobConfig:
    """The config with nothing left to choose, for workers on other machines and at later times.

    Args:
        config: the job.
        task: its task.
        identity: its model's: a worker that finds another version in the object store refuses it.
    """
    name, _ = choosing.named_model(config, task.name)
    source = locate(config, task.name, weights=False)
    is_folder = source.is_local and source.stored is None
    chosen = {"model": str(Path(source.location).absolute())} if is_folder else {"model": name, "revision": identity}
    return config.model_copy(update={"task": task.name, **chosen})


def _pipeline(task: Task, source: ModelSource, kwargs: ModelKwargs, model: PreTrainedModel) -> Pipeline:
    """The pipeline around a model, whose other parts come from the same place."""
    from transformers import pipeline
    from transformers.pipelines import SUPPORTED_TASKS, _maybe_load_ctc_decoder, _resolve_impl

    pipeline_class = _resolve_impl(SUPPORTED_TASKS[task.name]["impl"])
    parts = [name for name in COMPONENTS if getattr(pipeline_class, f"_load_{name}") is not False]
    access = {"revision": source.revision, **kwargs.access}
    if "tokenizer" in parts and not kwargs.access["trust_remote_code"]:
        _refuse_own_tokenizer(source, kwargs)
    extra: Kwargs = {}
    if task.name == "automatic-speech-recognition":  # pipeline() loads it only beside a model that it loads itself
        _maybe_load_ctc_decoder(source.location, access, extra, source.location)
    with _one_device(model) as device:
        return pipeline(
            task.name,
            model=model,
            config=source.location,
            device=device,
            pipeline_class=pipeline_class,
            model_kwargs=dict(kwargs.files),
            **dict.fromkeys(parts, source.location),
            **access,
            **extra,
        )


def _refuse_own_tokenizer(source: ModelSource, kwargs: ModelKwargs) -> None:
    """Raises ModelError for a tokenizer of the model's own, in whose place transformers would take one that it knows."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name

    files = {"revision": source.revision, "token": kwargs.access["token"], **kwargs.files}
    declared = get_tokenizer_config(source.location, **files)
    kind = declared.get("tokenizer_class")
    if declared.get("auto_map") and isinstance(kind, str) and tokenizer_class_from_name(kind) is None:
        raise refused_code(source.name)


@contextlib.contextmanager
def _one_device(model: PreTrainedModel) -> Iterator[torch.device | None]:
    """The device to give a Pipeline: None where the model lies on several.

    Of these a Pipeline takes the first, which may be the disk. Within, the model names only the one that takes its inputs.
    """
    places = getattr(model, "hf_device_map", None)
    if places is None:
        yield model.device
        return
    model.hf_device_map = {"": next((place for place in places.values() if place not in ("cpu", "disk")), "cpu")}
    try:
        yield None
    finally:
        model.hf_device_map = places
