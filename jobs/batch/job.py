"""Runs a batch job from start to finish."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import sys
import threading
import time

import ray
from ray.actor import ActorHandle
from ray.data import DataContext
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from dray.jobs.batch.dataflow import build, read, write
from dray.jobs.batch.datasink import Sink, WriteTotals
from dray.jobs.batch.datasource import pieces
from dray.jobs.batch.dtype import decide_dtype
from dray.jobs.batch.ledger import Count, Ledger
from dray.jobs.batch.preflight import Job, check
from dray.jobs.batch.progress import ProgressLine
from dray.jobs.batch.report import render
from dray.jobs.batch.summary import Summary, summarize
from dray.jobs.cluster.connect import Cluster
from dray.jobs.cluster.plan import Plan, cluster_nodes, free_nodes, make_plan
from dray.jobs.cluster.ray_internals import execution_callback
from dray.jobs.keys import KeySet
from dray.jobs.outputs.commits import checkpoint_config, finished_keys
from dray.jobs.outputs.openai_batch import write_batch_files
from dray.jobs.outputs.retry import attempts, failed_rows
from dray.jobs.storage.folder import REPORT, SUMMARY
from dray.pipelines.config import OPENAI, JobConfig
from dray.pipelines.errors import DrayError, JobError, StorageError, reason

TRIES = 2  # runs of the dataflow, if rows are missing at the end because an actor died with them
LOOK_S = 1.0  # between two counts of the rows that are done; each takes time from the model where cores are few
NODES_S = 5.0  # between two checks of the nodes
RETRIES = re.compile(r"\s*Failed to .* after \d+/\d+ attempts \(total backoff .*", re.DOTALL)  # what Ray Data adds to errors
STOP_S = 30.0  # the longest wait for workers to stop


class NodesLost(JobError):
    """The nodes that are left are too small for the plan: actors that wait for CPUs may block the others forever."""


def run(
    config: JobConfig, fresh: bool = False, address: str | None = None, again: bool = False, started: float | None = None
) -> Summary:
    """Runs a job to its end and returns its summary.

    Args:
        config: the job.
        fresh: delete the results of earlier runs first.
        address: address of a Ray cluster.
        again: do only the rows that failed in earlier runs.
        started: when the command was given, in seconds since the epoch; None: now.

    Returns:
        The summary, as summary.json holds it.

    Raises:
        UsageError: a mistake that is found before any work.
        JobError: more rows failed than the config allows, or rows are missing at the end.
    """
    started = started or time.time()
    with Cluster(address) as cluster:
        job = check(config, fresh, again=again, on_input=cluster.begin)
        assert job.lease is not None
        try:
            return _run(job, cluster, started)
        finally:
            try:
                cluster.end()  # before another run may begin
            finally:
                job.lease.release()


def _run(job: Job, cluster: Cluster, started: float) -> Summary:
    written, plan = WriteTotals(), None
    try:
        if job.rows_left:
            cluster.connect()
            plan = make_plan(free_nodes(job.config.engine), job.config.engine, job.work)
            job = dataclasses.replace(job, resolved=job.resolved.with_config(decide_dtype(job, plan)))
            plan = _until_done(job, plan, written)
        _balance(job, written)
    except JobError as error:
        _conclude(job, plan, written, started)
        if isinstance(error, StorageError):
            raise _stopped(error) from error
        raise
    return _conclude(job, plan, written, started)


def _until_done(job: Job, plan: Plan, written: WriteTotals) -> Plan:
    """Runs the dataflow until no row is missing, with a new plan where nodes are lost. Returns the last plan.

    Raises:
        JobError: rows are still missing after TRIES runs, or an error stopped the job.
    """
    left: Job | None = job
    tries = TRIES
    while left and tries:
        try:
            _execute(left, plan, written)
            tries -= 1
        except NodesLost as lost:
            print(f"dray: {lost}; the job goes on with those that are left", file=sys.stderr)
        left = _missing(job)
        if left and tries:
            plan = make_plan(free_nodes(job.config.engine), job.config.engine, left.work)
    _settle(job, written, left)
    return plan


def _conclude(job: Job, plan: Plan | None, written: WriteTotals, started: float) -> Summary:
    """Writes the summary and the report. An error of the storage is only printed: it must not hide why the job stopped."""
    summary = summarize(job, plan, written, started)
    try:
        if job.config.input.format == OPENAI:
            write_batch_files(job.output)
        job.output.write(SUMMARY, json.dumps(dict(summary), indent=2))
        job.output.write(REPORT, render(summary, job.config))
    except Exception as error:  # clients of object stores raise their own classes
        print(f"dray: cannot write {job.output.url}/{SUMMARY}: {reason(error)}", file=sys.stderr)
    return summary


def _execute(job: Job, plan: Plan, written: WriteTotals) -> None:
    """Runs the dataflow once and shows progress. Adds the rows written to `written`, also when it raises."""
    tried = attempts(job.output)
    has_succeeded = bool(job.earlier or tried)
    ledger = Ledger.options(scheduling_strategy=_here()).remote(has_succeeded)  # type: ignore[attr-defined]  # Ray's decorator adds it
    stop: list[JobError] = []
    context = DataContext.get_current()
    context.checkpoint_config = checkpoint_config(job.output)
    context.custom_execution_callback_classes = [execution_callback(plan.offered.cpus, plan.offered.gpus, stop)]
    assert job.lease is not None
    sink = Sink(job.output, job.config.output, ledger, job.lease.run, ray.put(tried) if tried else None)
    rows = build(read(job.data, job.left, job.finished, plan), job, plan, ledger)
    failure: list[BaseException] = []

    def work() -> None:
        try:
            write(rows, sink, plan)
        except BaseException as error:  # carried to the main thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    count = Count()
    try:
        count = _follow(job, plan, thread, ledger, stop)
    finally:
        stop.append(JobError("the job was stopped"))
        thread.join(STOP_S)
        written.deaths += count.deaths
        written.add(sink.written if not failure else WriteTotals(count.ok, count.failed))
    if len(stop) > 1 and not (isinstance(stop[0], NodesLost) and thread.is_alive()):
        raise stop[0]  # the reason; the last entry is always "the job was stopped"
    if failure:
        raise _stopped(failure[0]) from failure[0]
    if thread.is_alive():  # two dataflows must not run at once
        raise JobError("the workers do not stop; end those that are left on the cluster, then run again without --fresh")


def _follow(job: Job, plan: Plan, thread: threading.Thread, ledger: ActorHandle, stop: list[JobError]) -> Count:
    """Shows progress until the thread ends or must stop; the reason goes into `stop`. Returns the last count."""
    progress, count = ProgressLine(job.rows_left), Count()
    limit = job.config.errors.max_failed_fraction * job.data.rows
    checked, whole = time.monotonic(), len(cluster_nodes())
    assert job.lease is not None
    try:
        while thread.is_alive():
            thread.join(LOOK_S)
            with contextlib.suppress(RayError):  # a ledger that is being restarted is no reason to stop
                count = ray.get(ledger.count.remote(), timeout=10)
            progress.show(count)
            if job.lease.is_lost:
                stop.append(JobError(f"another run has taken {job.output.url}, for this one was silent for too long"))
            elif count.failed + job.failed_earlier > limit:
                stop.append(JobError(_too_many(count.failed + job.failed_earlier, job)))
            elif time.monotonic() - checked > NODES_S:
                checked, nodes = time.monotonic(), cluster_nodes()
                if len(nodes) < whole and not plan.fits(nodes):
                    stop.append(NodesLost(f"{whole - len(nodes)} of {whole} nodes are lost"))
            if stop:
                break
    finally:
        progress.close()
    return count


def _here() -> NodeAffinitySchedulingStrategy:
    """Places an actor on the driver's node: if that node dies, the job ends anyway."""
    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def _stopped(error: BaseException) -> JobError:
    return JobError(f"the job stopped: {_cause(error)}; the same command without --fresh continues it")


def _cause(error: BaseException) -> str:
    """The cause of an error from Ray, in one line: dray's own message, or else the innermost cause."""
    inner = getattr(error, "cause", None)  # the text of Ray's own errors says only where it happened
    if inner is not None and inner is not error:
        return _cause(inner)
    text = RETRIES.sub("", str(error))
    if isinstance(error, DrayError):
        return text
    if error.__cause__ is not None:
        return _cause(error.__cause__)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def _missing(job: Job) -> Job | None:
    """A job of the rows that were not committed; None if there are none."""
    finished = KeySet.union([job.finished, finished_keys(job.output)])
    count = job.data.rows - job.data.finished_rows(finished)
    if not count:
        return None
    left = pieces(job.data, finished)
    return dataclasses.replace(job, finished=finished, left=left, work=dataclasses.replace(job.work, rows=count))


def _settle(job: Job, written: WriteTotals, missing: Job | None) -> None:
    """Raises JobError where rows are still missing. Corrects `written` where rows were written and then rolled back."""
    if missing:
        rows = f"{missing.rows_left} of {job.rows_left} rows"
        raise JobError(f"{rows} are missing from {job.output.url}; run the same command again without --fresh")
    if written.ok + written.failed != job.rows_left:
        written.failed = failed_rows(job.output) - job.failed_earlier
        written.ok = job.rows_left - written.failed


def _balance(job: Job, written: WriteTotals) -> None:
    """Raises JobError if too many rows have failed."""
    failed = written.failed + job.failed_earlier
    if failed > job.config.errors.max_failed_fraction * job.data.rows:
        raise JobError(_too_many(failed, job))


def _too_many(failed: int, job: Job) -> str:
    return (
        f"{failed} of {job.data.rows} rows failed, more than errors.max_failed_fraction = "
        f"{job.config.errors.max_failed_fraction:g} allows; their errors are in {job.output.url}/data/status=failed, and "
        "dray retry does them again"
    )
