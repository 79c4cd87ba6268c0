"""Fills in what a config leaves out: the default model of a task, or the task of a model."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ConfigError
from dray.pipelines.internals.auto_classes import models_of
from dray.pipelines.tasks.names import find_task, is_known, special_first, supported, task_without_head
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def named_model(config: JobConfig) -> tuple[str, str | None]:
    """(name, revision) of the config's model, or else of transformers' default model for the task. Raises ConfigError."""
    if config.model:
        return config.model, config.revision
    if config.task is None:
        raise ConfigError("model: name a model, or a task, whose default model is then used")
    default = supported(find_task(config.task))["default"]["model"]
    model, revision = default["pt"] if isinstance(default, dict) else default
    return model, config.revision or revision


def by_tag(tag: object) -> Task | None:
    """The task named by the `pipeline_tag` of a model card or the hub; None if dray has no task of that name."""
    return find_task(tag) if isinstance(tag, str) and is_known(tag) else None


def card_tag(folder: Path) -> object:
    """The `pipeline_tag` of a folder's model card; None if there is none."""
    from huggingface_hub.repocard import metadata_load

    with contextlib.suppress(Exception):  # there is no card, or it is not YAML
        return (metadata_load(folder / "README.md") or {}).get("pipeline_tag")
    return None


def hub_tag(model: str, revision: str | None, token: str | bool | None) -> object:
    """The `pipeline_tag` of a model on the hub; None if the hub cannot be reached."""
    from huggingface_hub import is_offline_mode, model_info

    if is_offline_mode():
        return None
    with contextlib.suppress(Exception):  # the model may still be in the cache
        return model_info(model, revision=revision, token=token, timeout=10).pipeline_tag
    return None


def by_architecture(model_config: PreTrainedConfig) -> Task | None:
    """The most special task that one of the model's architectures can do; None if there is none."""
    wanted = set(model_config.architectures or ())
    for task in special_first():
        for auto_class in supported(task)["pt"]:
            if auto_class.__name__ != "AutoModel" and _serves(auto_class, model_config, wanted):
                return find_task(task.name)
    return _by_bare_model(model_config, wanted)


def _serves(auto_class: Any, model_config: PreTrainedConfig, wanted: set[str]) -> bool:  # noqa: ANN401  # an auto class
    own = (getattr(model_config, "auto_map", None) or {}).get(auto_class.__name__, "")
    names = {model.__name__ for model in models_of(auto_class, model_config)} | {own.rpartition(".")[2]}
    if auto_class.__name__ == "AutoModelForMaskedLM":  # it has encoder-decoders too, which rarely fill masks
        names = {name for name in names if not name.endswith("ForConditionalGeneration")}
    return bool(names & wanted)


def _by_bare_model(model_config: PreTrainedConfig, wanted: set[str]) -> Task | None:
    """The task of a model without a head."""
    from transformers import AutoModel

    for model in models_of(AutoModel, model_config):
        if model.__name__ in wanted:
            return task_without_head(model)
    return None
