"""`dray verify`: input and output counted afresh and balanced, and a sample of the rows done again. It changes nothing."""

from __future__ import annotations

import json
import posixpath
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.books import known_files
from jobs.commits import CHECKPOINT, TASK, _Files
from jobs.fingerprint import fingerprint, refuse_different
from jobs.formats.table import WHOLE_FILE
from jobs.inventory import Inventory, is_same
from jobs.keys import KeySet, first_key
from jobs.read import pieces, tables
from jobs.report import Rows, aligned
from jobs.retry import BEGUN, RETRIED
from jobs.rows import ERROR, ERRORS, ID, KEY, POSITION, PREDICTION, SOURCE, items
from jobs.sources import Input, open_input
from jobs.storage import Folder, output_folder, reason
from jobs.write import _json
from pipelines.agreement import alone, compare, device, tolerance_of
from pipelines.config import JobConfig
from pipelines.errors import RowError
from pipelines.models.loading import load_phases, model_identity, resolve_task

READERS = 8  # write tasks whose files are read at once
LISTED = 10  # problems that are printed
NAMED = 3  # rows that a problem names
TRIES = 3  # times as many rows are drawn as are wanted, where some cannot be found in the input

Row = dict[str, Any]


@dataclass
class Verdict:
    """What was found.

    Attributes:
        rows: of the table that is printed.
        problems: a sentence for each; none of a job that is done and right.
    """

    rows: Rows
    problems: list[str]

    def table(self) -> str:
        """For the terminal."""
        count = len(self.problems)
        verdict = "done, and all of it is right" if not count else f"{count} problem{'s' if count > 1 else ''}"
        lines = [aligned([*self.rows, ("verdict", verdict)]), *(f"  - {problem}" for problem in self.problems[:LISTED])]
        return "\n".join([*lines, f"  - and {count - LISTED} more"] if count > LISTED else lines)


@dataclass(frozen=True)
class _Job:
    """What is verified. `schema` is of a prediction."""

    config: JobConfig
    data: Input
    output: Folder
    known: Inventory
    schema: pa.DataType

    @property
    def names_rows(self) -> bool:
        """Whether ids are dray's own, made of source and position."""
        return self.data.columns.id is None

    @cached_property
    def columns(self) -> dict[str, pa.Schema]:
        """Status -> columns of its files, as Parquet gives them back."""
        types = self.data.columns.types
        kind = pa.string() if self.data.columns.id is None else types[self.data.columns.id]
        first = [(ID, kind), (SOURCE, pa.string()), *((column, types[column]) for column in self.data.columns.keep)]
        columns = {"ok": [*first, (PREDICTION, self.schema)], "failed": [*first, (POSITION, pa.int64()), (ERRORS, ERROR)]}
        return {status: _through_parquet(pa.schema(fields)) for status, fields in columns.items()}

    def name(self, path: str) -> str:
        """A file of the output, for people."""
        return path.removeprefix(self.output.path + "/")


@dataclass
class _Task:
    """A committed write task: its rows by status, as its files and its checkpoint have them.

    Attributes:
        keys: in its checkpoint; `committed` counts repeated ones, too.
        failed: keys of its failed rows.
        ids: a hash for each row's id.
    """

    name: str
    keys: KeySet = field(default_factory=KeySet)
    failed: KeySet = field(default_factory=KeySet)
    committed: int = 0
    paths: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def verify(config: JobConfig, sample: int = 20, seed: int = 0, tolerance: float | None = None) -> Verdict:
    """Counts, checks and samples what a job has written.

    Args:
        config: the job.
        sample: finished rows to do again, one by one.
        seed: which ones.
        tolerance: of numbers; by default what the precision of the model's weights admits.

    Raises:
        UsageError: the config is wrong, or the folder holds the results of other work.
    """
    task, output = resolve_task(config), output_folder(config)
    data = open_input(config, task)
    phases = load_phases(config, weights=False)
    refuse_different(output, fingerprint(config, task, data.columns, model_identity(config, phases)))
    schema = phases.schema({argument: data.columns.types[column] for argument, column in data.columns.arguments.items()})
    job = _Job(config, data, output, known_files(output, again=False), schema)
    files = _Files.of(output)
    unfinished = files.unfinished | _interrupted(output)
    with ThreadPoolExecutor(READERS) as pool:
        done = list(pool.map(lambda name: _checked(job, files, name), sorted(files.committed.keys() - unfinished)))
    verdict = _balance(job, done)
    verdict.problems += _strange(job, files, unfinished)
    if sample > 0:
        line, problems = _sampled(job, done, sample, seed, tolerance)
        verdict.rows.append(("sample", line))
        verdict.problems += problems
    return verdict


def _interrupted(output: Folder) -> set[str]:
    """Write tasks that an interrupted retry was about to change."""
    begun = [path for path in (output / RETRIED).files() if path.endswith(BEGUN)]
    return {name for path in begun for name in pq.read_table(path, filesystem=output.arrow())["task"].to_pylist()}


def _strange(job: _Job, files: _Files, unfinished: set[str]) -> list[str]:
    """What is wrong with the folder: files of tasks that were not committed, and those that no task has written."""
    problems = []
    if unfinished:
        names = _few(sorted(unfinished))
        problems.append(
            f"{_count(len(unfinished), 'write task')} did not finish: {names}; the next dray run takes back what they have "
            "left (unless a run is at work now)"
        )
    foreign = [path for name in files.data for path in files.data[name] if not TASK.fullmatch(name) and not _is_hidden(path)]
    if foreign:
        problems.append(f"dray has not written {_few([job.name(path) for path in foreign])}; move them out of the results")
    return problems


def _checked(job: _Job, files: _Files, name: str) -> _Task:
    """A write task whose files were read and compared with its checkpoint."""
    task, path = _Task(name), files.committed[name]
    hint = f"delete {CHECKPOINT}/{name}.parquet, and dray run does its rows again"
    try:
        keys = pq.read_table(path, columns=[KEY], filesystem=job.output.arrow())[KEY].to_numpy()
        task.keys, task.committed = KeySet.of(keys), len(keys)
        found: list[int] = []
        for status in ("ok", "failed"):
            inside = [each for each in files.data.get(name, []) if f"/status={status}/" in each and not _is_hidden(each)]
            for path in inside:
                task.paths[status] = path
                found += _looked_through(job, task, status, path)
        path = ", ".join(map(job.name, task.paths.values())) or f"data/status=ok/{name}"
        task.problems += [f"{path}: {problem}; {hint}" for problem in _mismatches(job, task, found)]
    except (OSError, ValueError, pa.ArrowException) as error:
        task.problems.append(f"{job.name(path)}: {reason(error).rstrip('.')}; {hint}")
    return task


def _looked_through(job: _Job, task: _Task, status: str, path: str) -> list[int]:
    """Counts the rows of one file. Returns their keys, where rows say which they are.

    Raises:
        ValueError: a column is missing or of another type, a line is no JSON, an id is not of its source.
        OSError, ArrowException: the file cannot be read.
    """
    rows = _rows(job, path, status, [ID, SOURCE, *([POSITION] if status == "failed" else [])])
    task.counts[status] = len(rows)
    task.ids += [hash(repr(row[ID])) for row in rows]
    if status == "failed":
        keys = [_first(row[SOURCE]) + (WHOLE_FILE if row[POSITION] is None else row[POSITION]) for row in rows]
        task.failed = KeySet.of(np.array(keys, np.uint64))
        return keys
    return [_key(row) for row in rows] if job.names_rows else []


def _mismatches(job: _Job, task: _Task, found: Sequence[int]) -> Iterator[str]:
    """Where a task's files and its checkpoint disagree. `found` are the keys of the rows in the files that have one."""
    written, rows = KeySet.of(np.array(found, np.uint64)), task.counts.total()
    if task.committed != len(task.keys):
        yield "its checkpoint names rows more than once"
    repeated = [key for key, count in Counter(found).items() if count > 1]
    if repeated:
        yield f"{_named(job, repeated)} {'are' if len(repeated) > 1 else 'is'} in it more than once"
    stray = written.without(task.keys)
    if len(stray):
        yield f"{_count(len(stray), 'row')} in it were not committed: {_named(job, stray.keys().tolist())}"
    missing = task.keys.without(written)
    if job.names_rows and len(missing):
        yield f"{_count(len(missing), 'row')} that were committed are missing: {_named(job, missing.keys().tolist())}"
    elif rows != task.committed and not (repeated or len(stray)):
        yield f"{_count(rows, 'row')} are in it, and {task.committed:,} were committed"


def _balance(job: _Job, done: Sequence[_Task]) -> Verdict:
    """Rows that went in, beside those that came out."""
    data, problems = job.data, [problem for task in done for problem in task.problems]
    finished = KeySet.union(task.keys for task in done)
    ok, failed = (sum(task.counts[status] for task in done) for status in ("ok", "failed"))
    inside = data.finished_rows(finished)
    left, gone = data.rows - inside, len(finished) - inside
    repeated = sum(len(task.keys) for task in done) - len(finished)
    if repeated:
        problems.append(f"{_count(repeated, 'row')} were committed by two write tasks: {_named(job, _in_several(done))}")
    problems += _changed(job, finished)
    if left:
        first = pieces(data, finished)[0].source.name
        problems.append(f"{_count(left, 'row')} are left to do, the first in {first}; dray run does them")
    sides = f"{data.rows:,} in{f' + {gone:,} gone' if gone else ''}", f"{ok:,} ok + {failed:,} failed + {left:,} left"
    balance = (" = " if data.rows + gone == ok + failed + left else " is not ").join(sides)
    rows = [("input", f"{data.rows:,} rows in {_count(len(data.sources), 'file')}"), ("ok", f"{ok:,}")]
    rows += [("failed", f"{failed:,}"), ("left", f"{left:,}")]
    if gone:
        rows.append(("gone", f"{gone:,} finished rows are of files that are no longer in the input, or not as they were"))
    paths = sum(len(task.paths) for task in done)
    rows += [("balance", balance), ("files", f"{paths:,} read, of {_count(len(done), 'write task')}"), ("ids", _ids(job, done))]
    return Verdict(rows, problems)


def _ids(job: _Job, done: Sequence[_Task]) -> str:
    """How many ids there are."""
    hashes = np.array([each for task in done for each in task.ids], np.int64)
    _, counts = np.unique(hashes, return_counts=True)
    repeated = int((counts > 1).sum())
    if not repeated:
        return f"{len(counts):,}, each once" if len(counts) else "none"
    why = "" if job.names_rows else f"; input.id, the column {job.data.columns.id}, may have them so"
    return f"{len(counts):,}, {repeated:,} of them more than once{why}"


def _changed(job: _Job, finished: KeySet) -> list[str]:
    """Files that are not what they were when rows of them were finished."""
    known = [(source, job.known.get(source.name)) for source in job.data.sources]
    changed = [earlier for source, earlier in known if earlier is not None and not is_same(source, earlier)]
    names = [each.name for each in changed if len(finished.common(KeySet.between([each.keys]))) and each.damaged is None]
    what = "does them again" if job.config.input.changed == "redo" else "refuses that; see input.changed"
    return [f"{_few(names)} changed after rows of it were finished; dray run {what}"] if names else []


def _sampled(job: _Job, done: Sequence[_Task], count: int, seed: int, tolerance: float | None) -> tuple[str, list[str]]:
    """Does finished rows again. Returns a line of the table, and the problems."""
    found, lost = _drawn(job, done, count, seed)
    missed = f"; {_count(lost, 'more row')} could not be found for certain in the input" if lost else ""
    if not found:
        return f"no rows{missed}", []
    phases = load_phases(job.config, weights=True, device=device())
    limit, largest, wrong = tolerance_of(phases) if tolerance is None else tolerance, 0.0, []
    for row, table in found:
        try:
            (item,) = items(table, phases)
            if isinstance(item, RowError):
                raise item
            again = alone(phases, item, job.schema, job.config.errors.timeout_s)
            difference = compare(row[PREDICTION], _as_stored(job, again), limit)
        except RowError as error:
            wrong.append(f"{row[ID]} (now it fails: {error})")
            continue
        largest = max(largest, difference.largest)
        if difference.places:
            wrong.append(f"{row[ID]} ({difference.places[0]})")
    line = f"{_count(len(found), 'row')} done again, one by one; largest difference {largest:.2g}, tolerance {limit:g}{missed}"
    differ = f"{len(wrong)} of {_count(len(found), 'sampled row')} differ from what is stored: {_few(wrong)}"
    return line, [differ] if wrong else []


def _drawn(job: _Job, done: Sequence[_Task], count: int, seed: int) -> tuple[list[tuple[Row, pa.Table]], int]:
    """Random finished rows beside their input, and how many more were drawn and not found there."""
    done = [task for task in done if not task.problems]
    ends = np.cumsum([task.counts["ok"] for task in done])
    total = int(ends[-1]) if len(ends) else 0
    order = random.Random(seed).sample(range(total), min(total, TRIES * count))
    found: list[tuple[Row, pa.Table]] = []
    drawn = 0
    while drawn < len(order) and len(found) < count:
        wanted: dict[int, list[int]] = defaultdict(list)
        for place in order[drawn : drawn + count - len(found)]:
            task = int(np.searchsorted(ends, place, side="right"))
            wanted[task].append(int(place - ends[task] + done[task].counts["ok"]))
            drawn += 1
        stored = []
        for index, places in wanted.items():
            rows = _rows(job, done[index].paths["ok"], "ok", [ID, SOURCE, PREDICTION], places)
            stored += [(row, done[index].keys.without(done[index].failed)) for row in rows]
        found += _with_input(job, stored)
    return found, drawn - len(found)


def _with_input(job: _Job, stored: Sequence[tuple[Row, KeySet]]) -> list[tuple[Row, pa.Table]]:
    """Rows, each with the keys that one of its write task has, beside the rows of the input that they were made of.

    A row is found if just one of the input has its source, its id and one of the keys.
    """
    same = {each.name: each for each in job.data.sources if is_same(each, job.known.get(each.name, each))}
    stored = [(row, keys) for row, keys in stored if row[SOURCE] in same]
    wanted = []
    for row, keys in stored:
        start = _key(row) if job.names_rows else None
        span = same[str(row[SOURCE])].keys if start is None else (start, start + 1)
        wanted.append(keys.common(KeySet.between([span])))
    others = KeySet.between(source.keys for source in job.data.sources).without(KeySet.union(wanted))
    hits: dict[int, list[pa.Table]] = defaultdict(list)
    for table in tables(job.data.filesystem, pieces(job.data, others), job.data.columns, others):
        names = [
            (source, _as_stored(job, name)) for source, name in zip(*(table[c].to_pylist() for c in (SOURCE, ID)), strict=True)
        ]
        keys = table[KEY].to_numpy()
        for index, ((row, _), held) in enumerate(zip(stored, wanted, strict=True)):
            inside = np.flatnonzero(held.holds(keys))
            hits[index] += [table.take([at]) for at in inside.tolist() if names[at] == (row[SOURCE], row[ID])]
    return [(row, hits[index][0]) for index, (row, _) in enumerate(stored) if len(hits[index]) == 1]


def _rows(job: _Job, path: str, status: str, columns: list[str], places: Sequence[int] | None = None) -> list[Row]:
    """Some columns of a file's rows, or of those at `places`. Reads all of it; raises as `_looked_through`."""
    if job.config.output.format == "parquet":
        with job.output.arrow().open_input_file(path) as file:
            table = pq.ParquetFile(file).read()
        _refuse_other_types(table.schema, job.columns[status])
        table = table.select(columns)
        rows: list[Row] = (table if places is None else table.take(places)).to_pylist()
        return rows
    rows = [json.loads(line) for line in (job.output.read(job.name(path)) or b"").splitlines()]
    for row in rows:
        _refuse_other_columns(row, job.columns[status])
    return rows if places is None else [rows[place] for place in places]


def _refuse_other_columns(names: Collection[str], expected: pa.Schema) -> None:
    """Raises ValueError for a column that is missing or too many."""
    for what, others in (
        ("lacks", [name for name in expected.names if name not in names]),
        ("has", [name for name in names if name not in expected.names]),
    ):
        if others:
            raise ValueError(f"it {what} the column {_few(others)}")


def _refuse_other_types(schema: pa.Schema, expected: pa.Schema) -> None:
    """Raises ValueError for a column of another type; a narrower one, of an earlier run with fewer files, is right."""
    _refuse_other_columns(schema.names, expected)
    for column in expected:
        stored = schema.field(column.name).type
        if stored != column.type and _wider(stored, column.type) != column.type:
            raise ValueError(f"its column {column.name} is {stored}, and should be {column.type}")


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that values of both fit in."""
    try:
        return pa.unify_schemas([pa.schema([("", each)]) for each in (one, other)], promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _through_parquet(schema: pa.Schema) -> pa.Schema:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))


def _as_stored(job: _Job, value: object) -> object:
    """A value as it is read back from the output."""
    if job.config.output.format == "parquet":
        return value
    return json.loads(json.dumps(_json(value), default=str))


_first = lru_cache(maxsize=1 << 16)(first_key)


def _key(row: Row) -> int:
    """The key of a finished row whose id is dray's own. Raises ValueError where the id is not of the row's source."""
    name, source = row[ID], row[SOURCE]
    position = "0" if name == source else str(name).removeprefix(f"{source}:")
    if name != source and (name != f"{source}:{position}" or not position.isdecimal()):
        raise ValueError(f"the id {name} does not name a row of {source}")
    return _first(source) + int(position)


def _is_hidden(path: str) -> bool:
    """Whether readers of the results pass over a file."""
    return posixpath.basename(path).startswith((".", "_"))


def _in_several(done: Sequence[_Task]) -> list[int]:
    """The first keys of spans that more than one task has committed."""
    starts, stops = (np.concatenate([getattr(task.keys, end) for task in done]) for end in ("starts", "stops"))
    order = np.argsort(starts, kind="stable")
    reached = np.maximum.accumulate(stops[order])[:-1]
    return [int(key) for key in starts[order][1:][starts[order][1:] < reached]]


def _named(job: _Job, keys: Sequence[int]) -> str:
    """Rows for people."""
    starts, stops = job.data.key_ranges
    names = []
    for key in keys[:NAMED]:
        inside = np.flatnonzero((starts <= np.uint64(key)) & (np.uint64(key) < stops))
        sources = [job.data.sources[index] for index in inside]
        names += [source.ids(key - source.first_key, 1)[0] for source in sources] or [f"one of another file, with key {key}"]
    return _few([*names, *keys[NAMED:]])


def _few(names: Sequence[object]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
