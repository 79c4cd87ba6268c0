"""`dray tune`: finds the best batch sizes of a job, and the best number of copies of the model and of threads.

It tries them on the cluster with rows of the job's input, and saves the results beside the node's models, where workers look.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import ray
from ray.exceptions import RayError

from dray.jobs.batch import rows
from dray.jobs.batch.datasource import spread_rows
from dray.jobs.batch.preflight import Job, check
from dray.jobs.batch.report import aligned
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.cluster.connect import connected
from dray.jobs.cluster.plan import POOLS, Plan, cluster_nodes, copy_bytes, free_nodes, make_plan
from dray.pipelines.batching.parts import Limits
from dray.pipelines.batching.tuning import Bucket
from dray.pipelines.config import JobConfig
from dray.pipelines.engine.block import predict, sample_parts
from dray.pipelines.engine.tuning_cache import TuningKey, remember_threads
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import JobError
from dray.pipelines.phases.item import Item

ROWS = 256  # of the sample
SECONDS = 60.0  # the longest time of trying batches
FEW_ENOUGH = 0.8  # share of the best speed that is enough: more copies start later, need memory and gain less in a job
LAYOUT_SECONDS = 5.0  # time of the trial of each number of copies


@dataclass(frozen=True)
class CopyLayout:
    """The number of copies of the model on one node, and of threads of each copy."""

    copies: int
    threads: int


@dataclass(frozen=True)
class TuningResult:
    """The results of `dray tune`. `layouts` is empty on accelerators: each has one copy of the model."""

    key: TuningKey
    buckets: Sequence[Bucket]
    otherwise: Limits
    layouts: Sequence[tuple[CopyLayout, float]]
    layout: CopyLayout | None

    def table(self) -> str:
        """The results as a table for the terminal."""
        lines = [("model", f"{self.key.task}, {self.key.dtype}"), ("on", self.key.device)]
        for layout, rate in self.layouts:
            chosen = "  <- taken" if layout == self.layout else ""
            lines.append(
                (f"{layout.copies} x {layout.threads} threads", f"{rate / self.layouts[0][1]:.2f} times as fast{chosen}")
            )
        for bucket in self.buckets:
            slowest = bucket.trials[0].rate
            for trial in bucket.trials:
                chosen = "  <- taken" if trial.elements == bucket.elements else ""
                speed = f"{trial.rate / slowest:.2f} times as fast{chosen}" if trial.rate else "out of memory"
                lines.append((f"up to {bucket.longest:,}, batch of {trial.parts:,}", speed))
        if not self.buckets:
            lines.append(("batches", f"rows of this task share none; {self.otherwise.elements:,} elements stay the limit"))
        return aligned(lines)


class Probe:
    """An actor with a copy of the model, which tries batches."""

    def __init__(self, worker: WorkerSpec, table: pa.Table) -> None:
        self._phases = worker.load(weights=True)
        self._key = TuningKey.of(self._phases, worker.model.identity)
        self._tuner = dataclasses.replace(worker, tuning_s=SECONDS).tuner(self._phases)
        self._model_threads = worker.model_threads(self._phases)
        self._watchdog = Watchdog(worker.model.config.errors.timeout_s)
        self._items = [item for item in rows.items(table, self._phases) if isinstance(item, Item)]
        self._parts = sample_parts(self._phases, self._items, self._watchdog, SECONDS)

    def count(self) -> int:
        """The number of parts to try."""
        return len(self._parts)

    def tune(self) -> tuple[TuningKey, list[Bucket], Limits]:
        """Finds the batch limits and saves them on this node."""
        buckets = self._tuner.learn(self._parts, self._watchdog)
        return self._key, buckets, self._tuner.limits

    def rate(self, seconds: float) -> float:
        """Real elements per second of all three phases, which share the cores, measured for about `seconds`."""
        started, done = time.perf_counter(), 0.0
        while time.perf_counter() - started < seconds:
            outcomes = predict(self._phases, self._items, self._tuner.limits, self._watchdog, self._model_threads)
            done += sum(outcome.meter.elements for outcome in outcomes)
        return done / (time.perf_counter() - started)


def tune(config: JobConfig, address: str | None = None) -> TuningResult:
    """Finds the best batch sizes, and on CPUs also the best number of copies, with rows of the job's input.

    Args:
        config: the job; nothing is written to its output.
        address: address of a Ray cluster.

    Raises:
        UsageError: the config is wrong.
        JobError: no row can be preprocessed, or the trials ended with an error.
    """
    engine = config.engine.model_copy(update={"batch": "auto"})
    job = check(config.model_copy(update={"engine": engine}), dry=True)
    with connected(address):
        plan = make_plan(free_nodes(job.config.engine), job.config.engine, job.work)
        table = ray.put(spread_rows(job.data, job.left, ROWS))
        try:
            layouts = [] if plan.model.gpus else [(layout, _speed(job, plan, layout, table)) for layout in _possible(job)]
            layout = chosen(layouts)
            (probe,) = _probes(job, plan, layout or CopyLayout(1, plan.threads), table, copies=1)
            if not ray.get(probe.count.remote()):
                raise JobError("dray tune: none of the rows that were tried can be preprocessed; dray run says why")
            if layouts and not any(rate for _, rate in layouts):
                raise JobError("dray tune: the model refuses every row that was tried; dray run says why")
            key, buckets, otherwise = ray.get(probe.tune.remote())
            ray.kill(probe)
        except RayError as error:
            raise JobError(f"dray tune stopped: {str(error).strip().splitlines()[-1]}") from error
    if layout is not None:
        remember_threads(job.model.identity, key.task, layout.threads)
    return TuningResult(key, buckets, otherwise, layouts, layout)


def chosen(layouts: Sequence[tuple[CopyLayout, float]]) -> CopyLayout | None:
    """The layout with the fewest copies that is nearly as fast as the fastest; None without layouts.

    `layouts`: (layout, speed), fewest copies first.
    """
    best = max((rate for _, rate in layouts), default=0.0)
    return next((layout for layout, rate in layouts if rate >= FEW_ENOUGH * best), None)


def _possible(job: Job) -> list[CopyLayout]:
    """The layouts that use all CPUs of the smallest node and fit its memory."""
    nodes = [node for node in cluster_nodes() if node.cpus >= 1]
    if not nodes:
        return [CopyLayout(1, 1)]
    cpus = int(min(node.cpus for node in nodes))
    fitting = max(1, min(node.memory for node in nodes) // copy_bytes(job.work))
    return [CopyLayout(copies, cpus // copies) for copies in (1, 2, 4, 8, 16, 32, 64) if copies <= min(cpus, fitting)]


def _probes(job: Job, plan: Plan, layout: CopyLayout, table: ray.ObjectRef, copies: int) -> list[ray.actor.ActorHandle]:
    options = (
        {"num_cpus": 0, "num_gpus": plan.model.gpus} if plan.model.gpus else {"num_cpus": min(1.0, POOLS * layout.threads)}
    )
    worker = WorkerSpec(job.model, job.schema, layout.threads, plan.model.gpus > 0)
    return [ray.remote(Probe).options(**options).remote(worker, table) for _ in range(copies)]


def _speed(job: Job, plan: Plan, layout: CopyLayout, table: ray.ObjectRef) -> float:
    """Real elements per second of all copies of a layout, which run at once."""
    probes = _probes(job, plan, layout, table, layout.copies)
    try:
        ray.get([probe.rate.remote(0.5) for probe in probes])  # returns when all are loaded and warm
        return float(sum(ray.get([probe.rate.remote(LAYOUT_SECONDS) for probe in probes])))
    finally:
        for probe in probes:
            ray.kill(probe)
