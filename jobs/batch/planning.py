"""`dray plan`: shows what a config means, how the cluster would be used, and why."""

from __future__ import annotations

import json
from dataclasses import dataclass

from dray.jobs.batch.preflight import Job, check
from dray.jobs.batch.report import Rows, aligned
from dray.jobs.cluster.connect import connected
from dray.jobs.cluster.plan import Plan, cluster_nodes, make_plan
from dray.jobs.storage.folder import PRECISION
from dray.pipelines.config import JobConfig
from dray.pipelines.engine.tuning_cache import recall_threads


@dataclass(frozen=True)
class Choice:
    """A key of `engine`, the value that is used, and the reason."""

    key: str
    value: str
    reason: str


@dataclass(frozen=True)
class PlannedJob:
    """A checked job with its plan for the cluster; `str()` gives the table that `dray plan` prints.

    Attributes:
        job: the checked job.
        plan: the number of workers, their size, and the size of blocks.
        choices: the values that `engine` leaves open.
    """

    job: Job
    plan: Plan
    choices: tuple[Choice, ...]

    def __str__(self) -> str:
        """The table that `dray plan` prints."""
        return aligned([*_meaning(self.job), *_choices(self.choices), *_pools(self.plan)])


def plan(config: JobConfig, address: str | None = None) -> PlannedJob:
    """Checks a config completely and plans it for a cluster; runs nothing.

    Args:
        config: the job.
        address: address of a Ray cluster; None: the cluster that this machine is part of, or this machine alone.

    Raises:
        UsageError: a check failed; the message says what to do.
    """
    job = check(config, dry=True)
    with connected(address):
        made = make_plan(cluster_nodes(), job.config.engine, job.work)
    return PlannedJob(job, made, choices(job, made, config))


def choices(job: Job, plan: Plan, given: JobConfig) -> tuple[Choice, ...]:
    """The value and the reason of each key of `engine`. `given`: the config as the user wrote it."""
    engine, gpus = given.engine, plan.offered.gpus
    offered = f"the cluster has {gpus:g} GPUs" if gpus else "the cluster has no GPU"
    on_gpu = plan.model.gpus > 0
    tuned = recall_threads(job.model.identity, job.model.task.name)
    dtype, why = _dtype(job, given)
    layout = "GPUs are fed by CPUs of the whole cluster" if on_gpu else "fewest processes"
    made = (
        ("device", engine.device, "GPU" if on_gpu else "CPU", offered),
        ("dtype", engine.dtype, dtype, why),
        ("layout", engine.layout, plan.layout, layout),
        ("copies", engine.copies, plan.model.actors, _copies(on_gpu, tuned)),
        ("batch", engine.batch, engine.batch, _batch(job, plan)),
    )
    return tuple(
        Choice(f"engine.{key}", str(value), reason if configured == "auto" else "as the config says")
        for key, configured, value, reason in made
    )


def _dtype(job: Job, given: JobConfig) -> tuple[str, str]:
    """(dtype, reason) of `engine.dtype: auto`."""
    if given.engine.dtype != "auto":
        return given.engine.dtype, ""
    kept = job.output.read(PRECISION)
    if kept is not None:
        decided = json.loads(kept)
        return str(decided["dtype"]), f"decided by an earlier run: {decided['why']}"
    saved = "as the model was saved"
    return "auto", f"{saved}, float32; a job of some minutes tries bfloat16 first" if job.is_float32 else saved


def _copies(on_gpu: bool, tuned: int | None) -> str:
    if on_gpu:
        return "one for each GPU, as memory allows"
    each = f"{tuned} cores for each, as dray tune has found" if tuned else "two cores for each"
    return f"{each}; no more than memory and the work allow"


def _batch(job: Job, plan: Plan) -> str:
    if job.model.task.runs_alone:
        return f"rows of {job.model.task.name} share no batch"
    budget = f"{job.model.task.elements:,} padded elements on a CPU, more on a GPU"
    return f"{budget}; workers of a long job find the best first" if plan.tuning_s else budget


def _meaning(job: Job) -> Rows:
    """The lines on model, input and output."""
    model, data = job.model, job.data
    source = "the config" if model.task_reason == "task" else model.task_reason
    columns = ", ".join(f"{argument} <- {column}" for argument, column in data.columns.arguments.items())
    ids = data.columns.id or "source file and row position"
    files = f"{data.rows:,} rows in {len(data.sources):,} {data.sources[0].format} files"
    damaged = sum(source.damaged is not None for source in data.sources)
    return [
        ("task", f"{model.task.name}, from {source}"),
        ("model", f"{model.name}, {model.place}, version {model.identity}"),
        ("input", files + (f", {damaged:,} of them damaged" if damaged else "")),
        ("columns", f"{columns}; id: {ids}"),
        ("output", f"{job.output.url}, {job.config.output.format}"),
        ("rows", f"{data.rows:,}, of which {job.rows_left:,} are left to do"),
    ]


def _choices(choices: tuple[Choice, ...]) -> Rows:
    return [(choice.key, f"{choice.value} ({choice.reason})") for choice in choices]


def _pools(plan: Plan) -> Rows:
    """The lines on the use of the cluster."""
    names = ("model", "preprocess", "postprocess", "gather")
    lines: Rows = []
    for name, pool in zip(names, (plan.model, plan.preprocess, plan.postprocess, plan.gather), strict=True):
        if pool is not None:
            gpus = f" and {pool.gpus:g} GPUs" if pool.gpus else ""
            lines.append((f"{name} actors", f"{pool.actors} of {pool.cpus:g} CPUs{gpus}"))
    return [*lines, ("threads", f"{plan.threads} per model actor"), ("block", f"{plan.block_rows:,} rows")]
