"""The model and task of a config, found once: the model's name, place and version, and its task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ConfigError
from dray.pipelines.models import choosing
from dray.pipelines.models.model import load_model_config
from dray.pipelines.models.model_kwargs import sort_kwargs
from dray.pipelines.models.weights import ModelSource, locate, version
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.task import Task

Place = Literal["folder", "hub", "object store"]


@dataclass(frozen=True)
class ResolvedModel:
    """A model and its task, the same in every process of a job.

    Attributes:
        config: the job's config with task, model and revision filled in: it means the same on other machines and later.
        task: the task of the model.
        task_reason: the source of the task: the config, the model's card, the hub, or the model's architecture.
        name: the model's name in the config, or in transformers for a task's default model.
        revision: the requested revision; None: the current one.
        place: where its files are.
        identity: its version: a hub model's commit, or a hash over the files of a folder or in a store.
    """

    config: JobConfig
    task: Task
    task_reason: str
    name: str
    revision: str | None
    place: Place
    identity: str

    def source(self, weights: bool) -> ModelSource:
        """The model's files on this machine, fetched from an object store if necessary; `weights`: with the weights.

        Raises:
            ModelError: the model, or this version of it, is not there any more.
        """
        assert self.config.model is not None
        return locate(self.config, self.config.model, self.config.revision, weights)

    def with_config(self, config: JobConfig) -> ResolvedModel:
        """The same model with another config, which must agree about the model."""
        return replace(self, config=config)


def resolve_model(config: JobConfig) -> ResolvedModel:
    """The model and the task of a config.

    Raises:
        ConfigError: no such task, or none can be inferred.
        ModelError: there is no such model, it may not be loaded, or its config cannot be read.
    """
    name, revision = choosing.named_model(config)
    source = locate(config, name, revision, weights=False)
    task, reason = _task(config, source)
    identity = version(source, with_code=config.model_kwargs.get("trust_remote_code") is True)
    place: Place = "object store" if source.stored is not None else "folder" if source.is_local else "hub"
    pinned = str(Path(source.location).absolute()) if place == "folder" else name
    chosen = {"task": task.name, "model": pinned, "revision": config.revision if place == "folder" else identity}
    return ResolvedModel(config.model_copy(update=chosen), task, reason, name, revision, place, identity)


def _task(config: JobConfig, source: ModelSource) -> tuple[Task, str]:
    """(task, its source): from the config, or the model's card or the hub, or else the model's architecture."""
    if config.task is not None:
        return find_task(config.task), "task"
    kwargs = sort_kwargs(config)
    if source.is_local:
        tag, reason = choosing.card_tag(Path(source.location)), "the model's card"
    else:
        tag, reason = choosing.hub_tag(source.location, source.revision, kwargs.access["token"]), "the hub"
    tagged = choosing.by_tag(tag)
    if tagged is not None:
        return tagged, reason
    model_config = load_model_config(source, kwargs)
    task = choosing.by_architecture(model_config)
    names = ", ".join(model_config.architectures or ()) or "no architecture"
    if task is None:
        raise ConfigError(f"task is missing, and cannot be inferred from {source.name} ({names})")
    return task, f"the model's architecture, {names}"
