"""A config with everything in it understood, once: `resolve`. Everything else takes what it returns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from dray.jobs.inputs.dataset import Input, open_input
from dray.jobs.inputs.inventory import Inventory
from dray.jobs.outputs.finished import known_files
from dray.jobs.storage.folder import Folder, output_folder
from dray.pipelines.config import OPENAI, JobConfig
from dray.pipelines.errors import OutputError
from dray.pipelines.models.resolved import ResolvedModel, resolve_model
from dray.pipelines.protocols.batch import requests_task
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.task import Task


@dataclass(frozen=True)
class ResolvedJob:
    """What a config means.

    Attributes:
        model: the model, its version, its task, and the config with nothing about the model left to choose.
        data: the input: its files, and which columns are which arguments.
        output: the output folder.
        known: the files of the input as earlier runs have found them.
    """

    model: ResolvedModel
    data: Input
    output: Folder
    known: Inventory

    @property
    def config(self) -> JobConfig:
        """The job's config; it holds on other machines and at later times."""
        return self.model.config

    @property
    def task(self) -> Task:
        """What the model is to do."""
        return self.model.task

    def with_config(self, config: JobConfig) -> ResolvedJob:
        """The same job with other choices in its config."""
        return dataclasses.replace(self, model=self.model.with_config(config))


def resolve(
    config: JobConfig, forget: bool = False, again: bool = False, on_input: Callable[[], None] | None = None
) -> ResolvedJob:
    """Finds out what a config means: model, task, input and output.

    Args:
        config: the job.
        forget: take no notice of what earlier runs have found in the input.
        again: have another look at files that earlier runs found damaged.
        on_input: called when the input and the place for the output are known and the model is about to be looked at, which
            takes seconds; not where an earlier run may have left nothing to do.

    Raises:
        UsageError: what is wrong, and what to do.
    """
    model = None if config.task else resolve_model(config)
    task = _rows_task(config, model.task if model else find_task(str(config.task)))
    output = output_folder(config)
    known = {} if forget else known_files(output, again)
    data = open_input(config, task, known)
    _refuse_inside(output, data)
    if on_input is not None and not known:
        on_input()
    model = model or resolve_model(config)
    return ResolvedJob(dataclasses.replace(model, task=task), data, output, known)


def _rows_task(config: JobConfig, task: Task) -> Task:
    """The task as the rows of the input ask for it: of OpenAI's Batch files each row is a request."""
    return requests_task(task) if config.input.format == OPENAI else task


def _refuse_inside(output: Folder, data: Input) -> None:
    """Raises OutputError where the next run would read this one's results."""
    for source in data.sources:
        if source.path.startswith(output.path + "/"):
            raise OutputError(f"output.path: {output.url} holds the input {source.name}; choose another folder")
