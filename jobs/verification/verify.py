"""`dray verify`: counts input and output again, compares them, and does a sample of the rows again. It changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq

from dray.jobs.batch.datasource import pieces
from dray.jobs.batch.dtype import of_earlier_runs
from dray.jobs.batch.report import Rows, aligned
from dray.jobs.batch.resolved import resolve
from dray.jobs.inputs.inventory import is_same
from dray.jobs.keys import KeySet
from dray.jobs.outputs.commits import TASK, TaskFiles, is_hidden
from dray.jobs.outputs.fingerprint import fingerprint, refuse_different
from dray.jobs.outputs.finished import known_files
from dray.jobs.outputs.retry import BEGUN, RETRIED
from dray.jobs.storage.folder import PRECISION, Folder
from dray.jobs.verification.committed import VerifiedJob, WriteTask, checked, counted, few, named
from dray.jobs.verification.sample import sampled
from dray.jobs.versions import versions
from dray.pipelines.config import JobConfig
from dray.pipelines.models.loading import load_phases

READERS = 8  # threads that read files, one write task each
LISTED = 10  # most problems that are printed


@dataclass
class Verification:
    """The result of `verify`.

    Attributes:
        rows: the rows of the table that is printed.
        problems: one sentence for each problem; empty for a job that is done and right.
    """

    rows: Rows
    problems: list[str]

    def table(self) -> str:
        """The result as a table for the terminal."""
        count = len(self.problems)
        verdict = "done, and all of it is right" if not count else f"{count} problem{'s' if count > 1 else ''}"
        lines = [aligned([*self.rows, ("verdict", verdict)]), *(f"  - {problem}" for problem in self.problems[:LISTED])]
        return "\n".join([*lines, f"  - and {count - LISTED} more"] if count > LISTED else lines)


def verify(config: JobConfig, sample: int = 20, seed: int = 0, tolerance: float | None = None) -> Verification:
    """Counts and checks the results of a job, and does a sample of its rows again.

    Args:
        config: the job.
        sample: how many finished rows to do again, one by one.
        seed: seed of the random choice of these rows.
        tolerance: largest difference of numbers; None: what the precision of the model's weights allows.

    Raises:
        UsageError: the config is wrong, or the folder holds the results of another job.
    """
    resolved = resolve(config, forget=True)  # inspects every file
    data, output = resolved.data, resolved.output
    phases = load_phases(resolved.model, weights=False)
    refuse_different(output, fingerprint(resolved.model, data.columns))
    schema = phases.schema({argument: data.columns.types[column] for argument, column in data.columns.arguments.items()})
    resolved = resolved.with_config(of_earlier_runs(resolved.config, output.read(PRECISION)))
    job = VerifiedJob(resolved.model, data, output, known_files(output, again=False), schema)
    files = TaskFiles.of(output)
    unfinished = files.unfinished | _interrupted(output)
    with ThreadPoolExecutor(READERS) as pool:
        done = list(pool.map(lambda name: checked(job, files, name), sorted(files.committed.keys() - unfinished)))
    verification = _balance(job, done)
    verification.problems += _strange(job, files, unfinished)
    if sample > 0:
        line, problems = sampled(job, done, sample, seed, tolerance)
        verification.rows.append(("sample", line))
        verification.problems += problems
    return verification


def _interrupted(output: Folder) -> set[str]:
    """The write tasks that an interrupted retry was about to change."""
    begun = [path for path in (output / RETRIED).files() if path.endswith(BEGUN)]
    return {name for path in begun for name in pq.read_table(path, filesystem=output.arrow())["task"].to_pylist()}


def _strange(job: VerifiedJob, files: TaskFiles, unfinished: set[str]) -> list[str]:
    """Problems of the folder: files of tasks that were not committed, and files that no task has written."""
    problems = []
    if unfinished:
        names = few(sorted(unfinished))
        problems.append(
            f"{counted(len(unfinished), 'write task')} did not finish: {names}; the next dray run takes back what they have "
            "left (unless a run is at work now)"
        )
    foreign = [path for name in files.data for path in files.data[name] if not TASK.fullmatch(name) and not is_hidden(path)]
    if foreign:
        problems.append(f"dray has not written {few([job.name(path) for path in foreign])}; move them out of the results")
    return problems


def _balance(job: VerifiedJob, done: Sequence[WriteTask]) -> Verification:
    """Compares the rows of the input with those of the output."""
    data, problems = job.data, [problem for task in done for problem in task.problems]
    finished = KeySet.union(task.keys for task in done)
    ok, failed = (sum(task.counts[status] for task in done) for status in ("ok", "failed"))
    inside = data.finished_rows(finished)
    left, outside = data.rows - inside, len(finished) - inside
    repeated = sum(len(task.keys) for task in done) - len(finished)
    if repeated:
        problems.append(f"{counted(repeated, 'row')} were committed by two write tasks: {named(job, _in_several(done))}")
    problems += _changed(job, finished)
    if left:
        first = pieces(data, finished)[0].source.name
        problems.append(f"{counted(left, 'row')} are left to do, the first in {first}; dray run does them")
    sides = f"{data.rows:,} in{f' + {outside:,} gone' if outside else ''}", f"{ok:,} ok + {failed:,} failed + {left:,} left"
    balance = (" = " if data.rows + outside == ok + failed + left else " is not ").join(sides)
    rows = [("input", f"{data.rows:,} rows in {counted(len(data.sources), 'file')}"), ("ok", f"{ok:,}")]
    rows += [("failed", f"{failed:,}"), ("left", f"{left:,}")]
    if outside:
        rows.append(("gone", f"{outside:,} finished rows are of files that are no longer in the input, or not as they were"))
    paths = sum(len(task.paths) for task in done)
    rows += [("balance", balance), ("files", f"{paths:,} read, of {counted(len(done), 'write task')}")]
    rows += [("ids", _ids(job, done)), ("versions", _versions(done))]
    return Verification(rows, problems)


def _versions(done: Sequence[WriteTask]) -> str:
    """The versions of transformers that made the files, and the version that compares them."""
    made = Counter(version for task in done for version in task.versions)
    known = ", ".join(f"{version} ({counted(count, 'file')})" for version, count in sorted(made.items()))
    here = versions().get("transformers", "unknown")
    return f"transformers {known or 'unknown: files of JSON lines do not say'}; compared with {here}"


def _ids(job: VerifiedJob, done: Sequence[WriteTask]) -> str:
    """The number of ids, and of those that occur more than once."""
    hashes = np.array([each for task in done for each in task.ids], np.int64)
    _, counts = np.unique(hashes, return_counts=True)
    repeated = int((counts > 1).sum())
    if not repeated:
        return f"{len(counts):,}, each once" if len(counts) else "none"
    why = "" if job.names_rows else f"; input.id, the column {job.data.columns.id}, may have them so"
    return f"{len(counts):,}, {repeated:,} of them more than once{why}"


def _changed(job: VerifiedJob, finished: KeySet) -> list[str]:
    """Problems of input files that changed after rows of them were finished."""
    known = [(source, job.known.get(source.name)) for source in job.data.sources]
    changed = [earlier for source, earlier in known if earlier is not None and not is_same(source, earlier)]
    names = [each.name for each in changed if len(finished.common(KeySet.between([each.keys]))) and each.damaged is None]
    what = "does them again" if job.config.input.changed == "redo" else "refuses that; see input.changed"
    return [f"{few(names)} changed after rows of it were finished; dray run {what}"] if names else []


def _in_several(done: Sequence[WriteTask]) -> list[int]:
    """The first keys of intervals that more than one task has committed."""
    starts, stops = (np.concatenate([getattr(task.keys, end) for task in done]) for end in ("starts", "stops"))
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(stops[order])[:-1]
    return [int(key) for key in starts[order][1:][starts[order][1:] < reached]]
