"""Decides which precision a job's model runs in: once, for all workers and all runs."""

from __future__ import annotations

import json

import pyarrow as pa
import ray
from ray.exceptions import RayError

from dray.jobs.batch import rows
from dray.jobs.batch.datasource import spread_rows
from dray.jobs.batch.preflight import Job
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.cluster.plan import Plan
from dray.jobs.storage.folder import PRECISION
from dray.pipelines.config import JobConfig
from dray.pipelines.engine.precision import choose, processor_has_bfloat16
from dray.pipelines.phases.item import Item

ROWS = 16  # of the trial, in both precisions


def of_earlier_runs(config: JobConfig, kept: bytes | None) -> JobConfig:
    """The config with the precision that an earlier run has decided on. `kept`: the content of its PRECISION file."""
    if kept is None or config.engine.dtype != "auto":
        return config
    engine = config.engine.model_copy(update={"dtype": json.loads(kept)["dtype"]})
    return config.model_copy(update={"engine": engine})


def decide_dtype(job: Job, plan: Plan) -> JobConfig:
    """The job's config with `engine.dtype` decided, if it is auto. The decision is kept in the output folder.

    The model keeps the precision that it was saved in if the job is short, because a trial would take longer than it saves,
    and if the output holds rows of a run that left no decision.
    """
    if job.config.engine.dtype != "auto":
        return job.config
    kept = job.output.read(PRECISION)
    if kept is None:
        is_worth_trying = job.is_float32 and not job.earlier and plan.tuning_s > 0 and _may_be_fast(plan)
        dtype, why = _tried(job, plan) if is_worth_trying else ("auto", "not tried")
        kept = json.dumps({"dtype": dtype, "why": why}).encode()
        job.output.write(PRECISION, kept)
    return of_earlier_runs(job.config, kept)


def _may_be_fast(plan: Plan) -> bool:
    """Whether the hardware may be faster in bfloat16: a GPU, or CPUs that all support it."""
    if plan.model.gpus:
        return True
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    if len(nodes) == 1 and nodes[0] == ray.get_runtime_context().get_node_id():
        return processor_has_bfloat16()
    probe = ray.remote(processor_has_bfloat16).options(num_cpus=plan.task_cpus)
    strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    return all(ray.get([probe.options(scheduling_strategy=strategy(node, soft=False)).remote() for node in nodes]))


def _tried(job: Job, plan: Plan) -> tuple[str, str]:
    worker = WorkerSpec(job.model, job.schema, plan.threads, plan.model.gpus > 0)
    options = {"num_cpus": plan.model.cpus, "num_gpus": plan.model.gpus}
    trial = ray.remote(max_calls=1, **options)(_choose)  # its process ends, and frees torch and two models
    try:
        return ray.get(trial.remote(worker, spread_rows(job.data, job.left, ROWS)))  # type: ignore[no-any-return]
    except RayError as error:
        return "auto", f"the trial failed: {str(error).strip().splitlines()[-1]}"


def _choose(worker: WorkerSpec, table: pa.Table) -> tuple[str, str]:
    phases = worker.load(weights=True)
    items = [item for item in rows.items(table, phases) if isinstance(item, Item)]
    return choose(phases, items, worker.model.config.errors.timeout_s)
