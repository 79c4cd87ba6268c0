"""Loads the pipeline of a resolved model: with its weights, or with its model on the meta device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from dray.pipelines.batching.length_buckets import compile_model
from dray.pipelines.errors import ConfigError, ModelError
from dray.pipelines.internals.linear import pack_linears
from dray.pipelines.internals.pipelines import components, ctc_decoder, pipeline_class
from dray.pipelines.models.model import explained, with_weights, without_weights
from dray.pipelines.models.model_kwargs import ModelKwargs, sort_kwargs
from dray.pipelines.models.resolved import ResolvedModel
from dray.pipelines.models.weights import ModelSource, refused_code
from dray.pipelines.phases.phases import Phases
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline, PreTrainedModel

T = TypeVar("T")


def load_phases(model: ResolvedModel, weights: bool, device: str = "cpu") -> Phases:
    """Loads the pipeline of a resolved model.

    Args:
        model: the model, its task, and the job's config.
        weights: False: the model stays on the meta device and cannot run `forward`.
        device: the device of the weights if `engine.device` is auto.

    Raises:
        ConfigError: an argument in `model_kwargs` has its own key in the config.
        ModelError: the model cannot be loaded, does not fit the task or refuses a parameter.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    config, task = model.config, model.task
    kwargs = sort_kwargs(config)
    source = model.source(weights)
    try:
        loaded = (
            with_weights(config, task, source, kwargs, device) if weights else without_weights(config, task, source, kwargs)
        )
        pipe = _pipeline(task, source, kwargs, loaded)
    except (ModelError, ConfigError):
        raise
    except Exception as error:  # transformers raises OSError, ValueError, KeyError and more for models it cannot load
        raise explained(error, source, kwargs, f" for {task.name}") from error
    if weights and config.engine.compile:
        compile_model(pipe)
    elif weights:
        pack_linears(pipe.model)
    phases: Phases = (task.phases or Phases)(pipe, config, task)
    return phases


def in_passing_thread(load: Callable[[], T]) -> T:
    """The result of `load`, called in a thread that ends afterwards, and with it the helper threads that torch started for it.

    torch starts helper threads for each thread that calls it, and they live as long as that thread. If there are more of them
    than cores, libgomp lets all of them sleep between two operations instead of spinning, and a model of many small operations
    takes up to 1.4 times as long.
    """
    with ThreadPoolExecutor(1, "loading") as threads:
        return threads.submit(load).result()


def _pipeline(task: Task, source: ModelSource, kwargs: ModelKwargs, model: PreTrainedModel) -> Pipeline:
    """The pipeline of a model; tokenizer and processors are loaded from the model's folder or repository."""
    from transformers import pipeline

    kind = pipeline_class(task.name)
    parts = components(kind)
    access = {"revision": source.revision, **kwargs.access}
    if "tokenizer" in parts and not kwargs.access["trust_remote_code"]:
        _refuse_own_tokenizer(source, kwargs)
    extra = ctc_decoder(source.location, access) if task.transcribes else {}
    with _one_device(model) as device:
        return pipeline(
            task.name,
            model=model,
            config=source.location,
            device=device,
            pipeline_class=kind,
            model_kwargs=dict(kwargs.files),
            **dict.fromkeys(parts, source.location),
            **access,
            **extra,
        )


def _refuse_own_tokenizer(source: ModelSource, kwargs: ModelKwargs) -> None:
    """Raises ModelError if the tokenizer is the model's own code: transformers would silently use another tokenizer."""
    from transformers.models.auto.tokenization_auto import get_tokenizer_config, tokenizer_class_from_name

    files = {"revision": source.revision, "token": kwargs.access["token"], **kwargs.files}
    declared = get_tokenizer_config(source.location, **files)
    kind = declared.get("tokenizer_class")
    if declared.get("auto_map") and isinstance(kind, str) and tokenizer_class_from_name(kind) is None:
        raise refused_code(source.name)


@contextlib.contextmanager
def _one_device(model: PreTrainedModel) -> Iterator[torch.device | None]:
    """Gives the `device` argument for a Pipeline; None if the model is spread over several devices.

    A Pipeline uses the first of several, which may be the disk. Inside this context the model names only the device that
    takes its inputs.
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
