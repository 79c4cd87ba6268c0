"""The dataflow: read, preprocess, forward, gather, postprocess, write, in this order."""

from __future__ import annotations

from collections.abc import Sequence

import ray
from fsspec.implementations.local import LocalFileSystem
from ray.actor import ActorHandle
from ray.data import ActorPoolStrategy, Dataset

from dray.jobs.batch.datasink import Sink
from dray.jobs.batch.datasource import Piece, RowsDatasource
from dray.jobs.batch.gather import Gather
from dray.jobs.batch.preflight import Job
from dray.jobs.batch.stages import Forward, Fused, Postprocess, Preprocess
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.cluster.plan import Plan, Pool
from dray.jobs.cluster.ray_internals import set_task_cpus
from dray.jobs.inputs.dataset import Input
from dray.jobs.keys import KeySet


def read(data: Input, left: Sequence[Piece], finished: KeySet, plan: Plan) -> Dataset:
    """The rows that are left to do, in blocks of a few seconds of model work."""
    source = RowsDatasource(data, left, finished, tasks=4 * plan.model.actors)
    at_once = plan.disk_tasks if isinstance(data.filesystem, LocalFileSystem) else None  # other storage mostly waits
    rows = ray.data.read_datasource(source, override_num_blocks=len(source), num_cpus=plan.task_cpus, concurrency=at_once)
    rows = rows.repartition(target_num_rows_per_block=plan.block_rows, strict=True)
    set_task_cpus(rows, plan.task_cpus)
    return rows


def build(rows: Dataset, job: Job, plan: Plan, ledger: ActorHandle) -> Dataset:
    """Rows with arguments -> rows with `prediction` or `error`."""
    worker = WorkerSpec(job.model, job.schema, plan.threads, plan.model.gpus > 0, ledger, plan.tuning_s)
    if plan.layout == "fused":
        return _pool(rows, Fused, plan.model, plan, worker)
    assert plan.preprocess is not None
    assert plan.postprocess is not None
    helper = WorkerSpec(job.model, job.schema, threads=1, accelerator=False, ledger=ledger)
    rows = _pool(rows, Preprocess, plan.preprocess, plan, helper)
    rows = _pool(rows, Forward, plan.model, plan, worker)
    if plan.gather is not None:
        rows = _pool(rows, Gather, plan.gather, plan)
    return _pool(rows, Postprocess, plan.postprocess, plan, helper)


def write(rows: Dataset, sink: Sink, plan: Plan) -> None:
    """Runs the dataflow and writes its rows. Raises the error that stops it."""
    at_once = plan.disk_tasks if sink.is_local else None
    rows.write_datasink(sink, ray_remote_args={"num_cpus": plan.task_cpus}, concurrency=at_once)


def _pool(rows: Dataset, operator: type, pool: Pool, plan: Plan, *arguments: object) -> Dataset:
    # An actor has two blocks. With the model it works on both, so that the model need not wait; else one is only fetched.
    overlap = {"max_concurrent_calls_per_actor": 2, "enable_true_multi_threading": True} if operator in (Fused, Forward) else {}
    on_gpu = {"num_gpus": pool.gpus, "batch_size": plan.block_rows} if pool.gpus else {"batch_size": None}
    return rows.map_batches(
        operator,
        fn_constructor_args=arguments,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2, **overlap),
        num_cpus=pool.cpus,
        **on_gpu,
    )
