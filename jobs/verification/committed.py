"""Reads the files of write tasks and compares them with their commits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dray.jobs.columns import ERROR, ERROR_TYPE, ID, KEY, POSITION, PREDICTION, SOURCE, WHOLE_FILE
from dray.jobs.inputs.dataset import Input
from dray.jobs.inputs.inventory import Inventory
from dray.jobs.keys import KeySet, first_key
from dray.jobs.outputs.commits import CHECKPOINT, TaskFiles, is_hidden
from dray.jobs.outputs.rows_in_files import versions_in
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import reason
from dray.pipelines.models.resolved import ResolvedModel

NAMED = 3  # rows that a problem names
Row = dict[str, Any]


@dataclass(frozen=True)
class VerifiedJob:
    """A job that is verified.

    Attributes:
        model: the model, its task and the job's config.
        data: the input, as it is now.
        output: the output folder.
        known: the input files as earlier runs have found them.
        schema: the Arrow type of a prediction.
    """

    model: ResolvedModel
    data: Input
    output: Folder
    known: Inventory
    schema: pa.DataType

    @property
    def config(self) -> JobConfig:
        """The job's config."""
        return self.model.config

    @property
    def names_rows(self) -> bool:
        """Whether dray makes the ids, from source and position; otherwise they are a column of the input."""
        return self.data.columns.id is None

    @cached_property
    def columns(self) -> dict[str, pa.Schema]:
        """Status -> schema of its files, as it is read back from Parquet."""
        types = self.data.columns.types
        kind = pa.string() if self.data.columns.id is None else types[self.data.columns.id]
        first = [(ID, kind), (SOURCE, pa.string()), *((column, types[column]) for column in self.data.columns.keep)]
        columns = {"ok": [*first, (PREDICTION, self.schema)], "failed": [*first, (POSITION, pa.int64()), (ERROR, ERROR_TYPE)]}
        return {status: _through_parquet(pa.schema(fields)) for status, fields in columns.items()}

    def name(self, path: str) -> str:
        """The path of a file relative to the output folder, for messages."""
        return path.removeprefix(self.output.path + "/")


@dataclass
class WriteTask:
    """A committed write task: what its files and its checkpoint hold.

    Attributes:
        name: Ray's name for it.
        keys: the keys in its checkpoint.
        failed: the keys of its failed rows.
        committed: how many keys its checkpoint has, repeated ones included.
        paths: status -> its file.
        counts: status -> rows in that file.
        ids: a hash of each row's id.
        versions: the version of transformers that made each file, where the file says it.
        problems: one sentence for each problem.
    """

    name: str
    keys: KeySet = field(default_factory=KeySet)
    failed: KeySet = field(default_factory=KeySet)
    committed: int = 0
    paths: dict[str, str] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    ids: list[int] = field(default_factory=list)
    versions: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def checked(job: VerifiedJob, files: TaskFiles, name: str) -> WriteTask:
    """Reads a write task's files and compares them with its checkpoint."""
    task, path = WriteTask(name), files.committed[name]
    hint = f"delete {CHECKPOINT}/{name}.parquet, and dray run does its rows again"
    try:
        keys = pq.read_table(path, columns=[KEY], filesystem=job.output.arrow())[KEY].to_numpy()
        task.keys, task.committed = KeySet.of(keys), len(keys)
        in_files: list[int] = []
        for status in ("ok", "failed"):
            inside = [each for each in files.data.get(name, []) if f"/status={status}/" in each and not is_hidden(each)]
            for path in inside:
                task.paths[status] = path
                in_files += _read_file(job, task, status, path)
        path = ", ".join(map(job.name, task.paths.values())) or f"data/status=ok/{name}"
        task.problems += [f"{path}: {problem}; {hint}" for problem in _mismatches(job, task, in_files)]
    except (OSError, ValueError, pa.ArrowException) as error:
        task.problems.append(f"{job.name(path)}: {reason(error).rstrip('.')}; {hint}")
    return task


def _read_file(job: VerifiedJob, task: WriteTask, status: str, path: str) -> list[int]:
    """Reads one file and adds its rows to `task`. Returns their keys, where the rows hold them.

    Raises:
        ValueError: a column is missing or of another type, a line is not JSON, or an id does not belong to its source.
        OSError, ArrowException: the file cannot be read.
    """
    rows = read_rows(job, path, status, [ID, SOURCE, *([POSITION] if status == "failed" else [])])
    made_with = versions_in(path, job.output.arrow())
    task.versions += [made_with["transformers"]] if "transformers" in made_with else []
    task.counts[status] = len(rows)
    task.ids += [hash(repr(row[ID])) for row in rows]
    if status == "failed":
        keys = [_first(row[SOURCE]) + (WHOLE_FILE if row[POSITION] is None else row[POSITION]) for row in rows]
        task.failed = KeySet.of(np.array(keys, np.uint64))
        return keys
    return [key_of(row) for row in rows] if job.names_rows else []


def _mismatches(job: VerifiedJob, task: WriteTask, in_files: Sequence[int]) -> Iterator[str]:
    """Where a task's files and its checkpoint disagree. `in_files`: the keys of the rows in the files that hold one."""
    written, rows = KeySet.of(np.array(in_files, np.uint64)), task.counts.total()
    if task.committed != len(task.keys):
        yield "its checkpoint names rows more than once"
    repeated = [key for key, count in Counter(in_files).items() if count > 1]
    if repeated:
        yield f"{named(job, repeated)} {'are' if len(repeated) > 1 else 'is'} in it more than once"
    stray = written.without(task.keys)
    if len(stray):
        yield f"{counted(len(stray), 'row')} in it were not committed: {named(job, stray.keys().tolist())}"
    missing = task.keys.without(written)
    if job.names_rows and len(missing):
        yield f"{counted(len(missing), 'row')} that were committed are missing: {named(job, missing.keys().tolist())}"
    elif rows != task.committed and not (repeated or len(stray)):
        yield f"{counted(rows, 'row')} are in it, and {task.committed:,} were committed"


def read_rows(job: VerifiedJob, path: str, status: str, columns: list[str], places: Sequence[int] | None = None) -> list[Row]:
    """Rows of a file, with some columns. Reads the whole file; JSON files give all columns.

    Args:
        job: the job that wrote the file.
        path: the path of the file.
        status: the status of its rows.
        columns: the columns to return.
        places: the places of the rows to return; None: all.

    Raises:
        ValueError: a column is missing, too many or of another type, or a line is not JSON.
        OSError, ArrowException: the file cannot be read.
    """
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
    """Raises ValueError where a column is missing or too many."""
    for what, others in (
        ("lacks", [name for name in expected.names if name not in names]),
        ("has", [name for name in names if name not in expected.names]),
    ):
        if others:
            raise ValueError(f"it {what} the column {few(others)}")


def _refuse_other_types(schema: pa.Schema, expected: pa.Schema) -> None:
    """Raises ValueError where a column has another type. A narrower type is right: an earlier run may have had fewer files."""
    _refuse_other_columns(schema.names, expected)
    for column in expected:
        stored = schema.field(column.name).type
        if stored != column.type and _wider(stored, column.type) != column.type:
            raise ValueError(f"its column {column.name} is {stored}, and should be {column.type}")


def _wider(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both types; None where there is none."""
    try:
        return pa.unify_schemas([pa.schema([("", each)]) for each in (one, other)], promote_options="permissive").field(0).type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return None


def _through_parquet(schema: pa.Schema) -> pa.Schema:
    sink = pa.BufferOutputStream()
    pq.write_table(schema.empty_table(), sink)
    return pq.read_schema(pa.BufferReader(sink.getvalue()))


_first = lru_cache(maxsize=1 << 16)(first_key)


def key_of(row: Row) -> int:
    """The key of a finished row, from the id that dray made.

    Raises:
        ValueError: the id does not belong to the row's source.
    """
    name, source = row[ID], row[SOURCE]
    position = "0" if name == source else str(name).removeprefix(f"{source}:")
    if name != source and (name != f"{source}:{position}" or not position.isdecimal()):
        raise ValueError(f"the id {name} does not name a row of {source}")
    return _first(source) + int(position)


def named(job: VerifiedJob, keys: Sequence[int]) -> str:
    """The names of the rows with these keys, for messages."""
    starts, stops = job.data.key_ranges
    names = []
    for key in keys[:NAMED]:
        inside = np.flatnonzero((starts <= np.uint64(key)) & (np.uint64(key) < stops))
        sources = [job.data.sources[index] for index in inside]
        names += [source.ids(key - source.first_key, 1)[0] for source in sources] or [f"one of another file, with key {key}"]
    return few([*names, *keys[NAMED:]])


def few(names: Sequence[object]) -> str:
    """The first names, and the number of the others."""
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(map(str, names[:NAMED])) + more


def counted(number: int, what: str) -> str:
    """The number and the noun, in the singular or the plural."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
