"""Finds a task by its name. Knows aliases, the tasks that transformers removed, and those the installed version lacks."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from dray.pipelines.errors import ConfigError, nearest
from dray.pipelines.tasks.table import TASKS
from dray.pipelines.tasks.task import Task

ALIASES = {"sentiment-analysis": "text-classification", "ner": "token-classification", "text-to-speech": "text-to-audio"}

FEATURES = {"input_ids": "feature-extraction", "pixel_values": "image-feature-extraction"}  # by a bare model's main input

# Tasks that transformers 5 removed -> what to use instead.
REMOVED = {
    "question-answering": "text-generation with a chat model",
    "summarization": "text-generation with a chat model",
    "text2text-generation": "text-generation with a chat model",
    "translation": "text-generation with a chat model",
    "visual-question-answering": "image-text-to-text with a vision-language model",
    "vqa": "image-text-to-text with a vision-language model",
    "image-to-text": "image-text-to-text with a vision-language model",
    "image-to-image": "the diffusers library",
}


def find_task(name: str) -> Task:
    """The task of that name or alias.

    Raises:
        ConfigError: there is no such task (the message names its replacement or the nearest name), or a package that it
            needs is not installed.
    """
    name = ALIASES.get(name, name)
    if name in TASKS:
        _refuse_missing(TASKS[name])
        return TASKS[name]
    removed = "translation" if name.startswith("translation_") else name
    if removed in REMOVED:
        raise ConfigError(f"task: transformers has removed {name}; use {REMOVED[removed]}")
    raise ConfigError(f"task: dray does not run {name}{nearest(name, [*TASKS, *ALIASES])}")


def is_known(name: str) -> bool:
    """Whether `name` is the name or alias of a task."""
    return ALIASES.get(name, name) in TASKS


def supported(task: Task) -> Mapping[str, Any]:
    """The installed transformers' entry for a task: its auto classes and its default model.

    Raises:
        ConfigError: the installed version does not have the task.
    """
    from transformers import __version__
    from transformers.pipelines import SUPPORTED_TASKS

    if task.name not in SUPPORTED_TASKS:
        raise ConfigError(f"task: transformers {__version__}, which is installed, has no {task.name}; install a newer one")
    entry: Mapping[str, Any] = SUPPORTED_TASKS[task.name]
    return entry


def special_first() -> list[Task]:
    """The tasks of the installed transformers, by `Task.general`: those that also take other tasks' models come last."""
    from transformers.pipelines import SUPPORTED_TASKS

    return sorted((task for task in TASKS.values() if task.name in SUPPORTED_TASKS), key=lambda task: task.general)


def task_without_head(model: type) -> Task | None:
    """The task of a model class without a head, found by its methods or its main input; None if there is none."""
    if hasattr(model, "get_audio_features") and hasattr(model, "get_text_features"):
        return find_task("zero-shot-audio-classification")
    name = FEATURES.get(getattr(model, "main_input_name", ""))
    return find_task(name) if name else None


def _refuse_missing(task: Task) -> None:
    missing = [package for package in task.needs if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"task: {task.name} needs {missing[0]}, which is not installed; pip install {missing[0]}")
