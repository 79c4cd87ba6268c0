"""The batch job, start to finish: `python -m jobs.run CONFIG`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.resources import Plan, Work, cluster_nodes, make_plan
from jobs.storage import Folder, reason
from pipelines.config import JobConfig
from pipelines.errors import ConfigError, JobError

if TYPE_CHECKING:
    from jobs.read import Input, Keys, Piece
    from jobs.write import Written
    from pipelines.phases import Phases

SUMMARY = "_dray/summary.json"
REPORT = "_dray/report.html"


@dataclass(frozen=True)
class Job:
    """A config that has been checked completely: its model loads, its input is there, its output is ours."""

    config: JobConfig
    data: Input
    output: Folder
    finished: Keys
    left: list[Piece]
    work: Work

    @property
    def rows_left(self) -> int:
        """Rows not finished by earlier runs."""
        return self.work.rows


def output_folder(config: JobConfig) -> Folder:
    """Where the results go; storage options default to the input's."""
    options = config.output.storage_options
    return Folder(config.output.path, config.input.storage_options if options is None else options)


def check(config: JobConfig, fresh: bool = False, dry: bool = False) -> Job:
    """Checks everything that can be checked before a worker starts, and claims the output folder.

    Args:
        config: the job.
        fresh: delete what earlier runs have written.
        dry: leave the output folder alone, and count all rows as left.

    Raises:
        UsageError: what is wrong, and what to do.
    """
    from jobs.read import open_input, pieces
    from jobs.resume import claim, fingerprint, finished_keys
    from pipelines.phases import load_phases, model_identity, resolve_task

    task = resolve_task(config)
    data = open_input(config, task)
    phases = load_phases(config, weights=False)
    if config.output.subtitles and "chunks" not in str(phases.schema()):
        raise ConfigError("output.subtitles: set parameters.return_timestamps, or there is nothing to time them by")
    output = output_folder(config)
    if dry:
        finished = np.empty(0, np.uint64)
    else:
        claim(output, fingerprint(config, task, data.columns, model_identity(config, phases)), config, fresh)
        finished = finished_keys(output)
    left = pieces(data, finished)
    rows = data.rows - _finished_rows(data, finished)
    return Job(config, data, output, finished, left, _work(phases, data, rows))


def _finished_rows(data: Input, finished: Keys) -> int:
    from jobs.read import row_keys

    if not len(finished):
        return 0
    return sum(int(np.isin(row_keys(s.name, 0, s.rows), finished).sum()) for s in data.sources)


def _work(phases: Phases, data: Input, rows: int) -> Work:
    """Costs by rule of thumb: two operations per weight and position, positions by the bytes of a row."""
    weights = sum(parameter.numel() for parameter in phases.pipe.model.parameters())
    bytes_per_row = sum(source.size for source in data.sources) / max(1, data.rows)
    # 16 kB of compressed audio are a second of 50 frames; 4 bytes of compressed text are about 2 tokens.
    positions = bytes_per_row / 16_000 * 50 if phases.task.fans_out else bytes_per_row / 2
    element_size = next(phases.pipe.model.parameters()).element_size()
    return Work(rows, 2.0 * weights * max(1.0, positions), weights * element_size, phases.task.fans_out)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Ray: the cluster at `address`, the one this machine is part of, or one in this process."""
    import ray
    from ray.data import DataContext

    # Ray's C++ core warns of every actor pool that its arguments could be lost; that belongs in no user's terminal.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # workers inherit it; threads are planned, not taken
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what it says of an error, the job's own message says
    ours = not ray.is_initialized()
    if ours:
        try:
            with _silent_stderr():
                ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--address: cannot connect to a Ray cluster at {address or 'auto'}: {reason(error)}") from None
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 32 << 20
    try:
        yield
    finally:
        context.checkpoint_config = None
        if ours:
            ray.shutdown()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps what Ray's C++ core writes while it starts off the terminal; failures come as exceptions all the same."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


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
    from jobs.report import render
    from jobs.write import Written

    started = time.time()
    job = check(config, fresh)
    written = Written()
    plan = None
    if job.rows_left:
        with connected(address):
            plan = make_plan(cluster_nodes(), config.engine, job.work)
            written = _execute(job, plan)
            again = _missing(job, written)
            if again:
                written.add(_execute(again, make_plan(cluster_nodes(), config.engine, again.work)))
    summary = _summary(job, plan, written, time.time() - started)
    job.output.write(SUMMARY, json.dumps(summary, indent=2))
    job.output.write(REPORT, render(summary, config))
    _balance(job, written, summary)
    return summary


def _execute(job: Job, plan: Plan) -> Written:
    """Runs the dataflow once, showing progress. Returns what was written."""
    import ray
    from ray.data import DataContext

    from jobs.flow import build, read
    from jobs.progress import Count, ProgressLine, Tally
    from jobs.resume import checkpoint_config
    from jobs.write import Sink

    DataContext.get_current().checkpoint_config = checkpoint_config(job.output)
    tally = Tally.remote()  # type: ignore[attr-defined]  # Ray's decorator adds it
    sink = Sink(job.output, job.config.output, tally)
    rows = build(read(job.data, job.left, job.finished, plan), job.config, plan)
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
        count = ray.get(tally.count.remote())
        progress.show(count)
        if count.failed > limit:
            progress.close()
            raise JobError(_too_many(count.failed, job.data.rows, job))
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
    from jobs.read import pieces
    from jobs.resume import finished_keys

    count = job.rows_left - written.ok - written.failed
    if count <= 0:
        return None
    finished = finished_keys(job.output)
    left = pieces(job.data, finished)
    return dataclasses.replace(job, finished=finished, left=left, work=dataclasses.replace(job.work, rows=count))


def _summary(job: Job, plan: Plan | None, written: Written, seconds: float) -> dict[str, object]:
    meter = written.meter
    rows = written.ok + written.failed
    phases = {
        "read": meter.read_s,
        "preprocess": meter.preprocess_s,
        "forward": meter.forward_s,
        "postprocess": meter.postprocess_s,
        "write": written.write_s,
        "waiting": meter.waiting_s,
    }
    return {
        "rows_in": job.data.rows,
        "rows_ok": written.ok,
        "rows_failed": written.failed,
        "rows_skipped": job.data.rows - job.rows_left,
        "seconds": round(seconds, 3),
        "rows_per_second": round(rows / seconds, 3),
        "audio_seconds": round(meter.audio_seconds, 3),
        "padding_efficiency": round(meter.elements / meter.padded_elements, 4) if meter.padded_elements else 1.0,
        "seconds_by_phase": {name: round(value, 3) for name, value in phases.items()},
        "peak_memory_bytes": int(meter.peak_bytes),
        "plan": dataclasses.asdict(plan) if plan else None,
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    import platform
    from importlib.metadata import version

    packages = ("dray", "ray", "torch", "transformers", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _balance(job: Job, written: Written, summary: dict[str, object]) -> None:
    """Raises JobError where rows are missing or too many have failed."""
    done = written.ok + written.failed
    if done != job.rows_left:
        raise JobError(
            f"{job.rows_left - done} of {job.rows_left} rows are missing from {job.output.url}; run the same command again"
        )
    if written.failed > job.config.errors.max_failed_fraction * job.data.rows:
        raise JobError(_too_many(written.failed, job.data.rows, job))


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
