"""`resolve` finds the model, task, input and output of a config, once; everything else takes its result."""

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
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.task import Task


@dataclass(frozen=True)
class ResolvedJob:
    """The model, task, input and output of a config.

    Attributes:
        model: the model, its version, its task, and the config with all choices about the model made.
        data: the input: its files, and the column of each argument.
        output: the output folder.
        known: the input files as earlier runs have found them.
    """

    model: ResolvedModel
    data: Input
    output: Folder
    known: Inventory

    @property
    def config(self) -> JobConfig:
        """The job's config; it means the same on other machines and at later times."""
        return self.model.config

    @property
    def task(self) -> Task:
        """The task that the model does."""
        return self.model.task

    def with_config(self, config: JobConfig) -> ResolvedJob:
        """The same job with another config."""
        return dataclasses.replace(self, model=self.model.with_config(config))


def resolve(
    config: JobConfig, forget: bool = False, again: bool = False, on_input: Callable[[], None] | None = None
) -> ResolvedJob:
    """Finds the model, task, input and output of a config.

    Args:
        config: the job.
        forget: inspect every input file, also those that earlier runs have inspected.
        again: inspect the files again that earlier runs found damaged.
        on_input: called when input and output are known, before the model is resolved, which takes seconds. It is not called
            where there was an earlier run, which may have left nothing to do.

    Raises:
        UsageError: the config is wrong; the message says what to do.
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
    """The task for the rows of the input; each row of OpenAI's Batch files is a request."""
    if config.input.format != OPENAI:
        return task
    from dray.pipelines.protocols.batch import requests_task  # takes long to import

    return requests_task(task)


def _refuse_inside(output: Folder, data: Input) -> None:
    """Raises OutputError if input files lie in the output folder: the next run would read this one's results."""
    for source in data.sources:
        if source.path.startswith(output.path + "/"):
            raise OutputError(f"output.path: {output.url} holds the input {source.name}; choose another folder")
