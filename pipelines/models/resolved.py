"""A config's model and task, found once: which model it is, where it lies, which version it is, and what it is to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ConfigError
from dray.pipelines.models import choosing
from dray.pipelines.models.model import load_config
from dray.pipelines.models.model_kwargs import sort_kwargs
from dray.pipelines.models.weights import ModelSource, locate, version
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.task import Task

Place = Literal["folder", "hub", "object store"]


@dataclass(frozen=True)
class ResolvedModel:
    """A model and its task, as every process of a job knows them.

    Attributes:
        config: the job's, with nothing about the model left to choose: it holds on other machines and at later times.
        task: what the model is to do.
        task_reason: where the task comes from: the config, the model's card, the hub, or its architecture.
        name: the model as the config or, for a task's default model, transformers names it.
        revision: as asked for; None: whatever is there.
        place: where it lies.
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
        """Where its files lie on this machine; fetched from an object store first, with the weights where these are needed.

        Raises:
            ModelError: it is not there any more, or not in this version.
        """
        assert self.config.model is not None
        return locate(self.config, self.config.model, self.config.revision, weights)

    def with_config(self, config: JobConfig) -> ResolvedModel:
        """The same model for a config that differs in other things."""
        return replace(self, config=config)


def resolve_model(config: JobConfig) -> ResolvedModel:
    """Finds the model and the task of a config.

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
    """The config's task; or what the model's card, the hub or else the model's architecture says. And which of these."""
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
    model_config = load_config(source, kwargs)
    task = choosing.by_architecture(model_config)
    names = ", ".join(model_config.architectures or ()) or "no architecture"
    if task is None:
        raise ConfigError(f"task is missing, and cannot be inferred from {source.name} ({names})")
    return task, f"the model's architecture, {names}"
