"""The batch job, start to finish: `python -m jobs.run CONFIG`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
import time

import ray
from ray.data import DataContext
from ray.exceptions import RayError

from jobs.checks import Job, check
from jobs.connect import connected
from jobs.flow import build, read
from jobs.progress import Count, ProgressLine, Tally
from jobs.read import pieces
from jobs.report import render
from jobs.resources import Plan, free_nodes, make_plan
from jobs.resume import checkpoint_config, finished_keys
from jobs.storage import REPORT, SUMMARY
from jobs.summary import summarize
from jobs.write import Sink, Written
from pipelines.config import JobConfig
from pipelines.errors import JobError


def run(config: JobConfig, fresh: bool = False, address: str | None = None) -> dict[str, object]:
    """Runs a job to its end.

    Args:
        config: the job.
        fresh: forget what earlier runs have finished, and their results.
        address: of a Ray cluster.

    Returns:
        The content of summary.json.

    Raises:
        UsageError: before any work.
        JobError: more rows failed than the config allows, or rows are missing at the end.
    """
    started = time.time()
    job = check(config, fresh)
    assert job.lease is not None
    try:
        return _run(job, address, started)
    finally:
        job.lease.release()


def _run(job: Job, address: str | None, started: float) -> dict[str, object]:
    config, written = job.config, Written()
    plan = None
    if job.rows_left:
        with connected(address):
            plan = make_plan(free_nodes(config.engine), config.engine, job.work)
            written = _execute(job, plan)
            again = _missing(job, written)
            if again:
                written.add(_execute(again, make_plan(free_nodes(config.engine), config.engine, again.work)))
    summary = summarize(job, plan, written, started)
    job.output.write(SUMMARY, json.dumps(summary, indent=2))
    job.output.write(REPORT, render(summary, config))
    _balance(job, written)
    return summary


def _execute(job: Job, plan: Plan) -> Written:
    """Runs the dataflow once, showing progress. Returns what was written."""
    DataContext.get_current().checkpoint_config = checkpoint_config(job.output)
    tally = Tally.remote()  # type: ignore[attr-defined]  # Ray's decorator adds it
    sink = Sink(job.output, job.config.output, tally)
    rows = build(read(job.data, job.left, job.finished, plan), job.config, job.schema, plan)
    failure: list[BaseException] = []

    def write() -> None:
        try:
            rows.write_datasink(sink, ray_remote_args={"num_cpus": plan.task_cpus})
        except BaseException as error:  # carried to the main thread
            failure.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    progress, count = ProgressLine(job.rows_left), Count()
    limit = job.config.errors.max_failed_fraction * job.data.rows
    while thread.is_alive():
        thread.join(0.25)
        with contextlib.suppress(RayError):  # a tally that is being restarted is no reason to stop
            count = ray.get(tally.count.remote(), timeout=10)
        progress.show(count)
        if job.lease is not None:
            job.lease.check()
        if count.failed + job.failed_earlier > limit:
            progress.close()
            raise JobError(_too_many(count.failed + job.failed_earlier, job.data.rows, job))
    progress.close()
    if failure:
        raise JobError(f"the job stopped: {_cause(failure[0])}; the same command continues it") from failure[0]
    return sink.written


def _cause(error: BaseException) -> str:
    """The innermost cause of an error of Ray's, in one line."""
    inner = getattr(error, "cause", None) or error.__cause__
    if inner is not None and inner is not error:
        return _cause(inner)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else ''}"


def _missing(job: Job, written: Written) -> Job | None:
    """The job of the rows that went in and did not come out, if there are any."""
    count = job.rows_left - written.ok - written.failed
    if count <= 0:
        return None
    finished = finished_keys(job.output)
    left = pieces(job.data, finished)
    return dataclasses.replace(job, finished=finished, left=left, work=dataclasses.replace(job.work, rows=count))


def _balance(job: Job, written: Written) -> None:
    """Raises JobError where rows are missing or too many have failed."""
    done = written.ok + written.failed
    if done != job.rows_left:
        raise JobError(
            f"{job.rows_left - done} of {job.rows_left} rows are missing from {job.output.url}; run the same command again"
        )
    failed = written.failed + job.failed_earlier
    if failed > job.config.errors.max_failed_fraction * job.data.rows:
        raise JobError(_too_many(failed, job.data.rows, job))


def _too_many(failed: int, rows: int, job: Job) -> str:
    return (
        f"{failed} of {rows} rows failed, more than errors.max_failed_fraction = "
        f"{job.config.errors.max_failed_fraction:g} allows; their errors are in {job.output.url}/data/status=failed"
    )


def main() -> None:
    """The command line of `python -m jobs.run`."""
    from jobs.cli import main as cli

    sys.exit(cli(["run", *sys.argv[1:]]))


if __name__ == "__main__":
    main()
