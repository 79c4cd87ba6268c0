"""The input's rows as a Ray Dataset, with row keys that stay the same from run to run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from dray.jobs.batch.rows import error_array
from dray.jobs.columns import ARGUMENT, ERROR, ERROR_TYPE, ID, KEEP, KEY, POSITION, READ_S, SOURCE
from dray.jobs.inputs.dataset import Columns, Input, is_damage
from dray.jobs.inputs.formats.file import InputFile
from dray.jobs.inputs.formats.registry import FORMATS
from dray.jobs.inputs.formats.streams import READ_BYTES, READ_ROWS
from dray.jobs.keys import KeySet
from dray.pipelines.errors import RowError, reason

if TYPE_CHECKING:
    import fsspec

TASK_BYTES = 64 << 20  # about the most bytes of a read task


@dataclass(frozen=True)
class Piece:
    """Rows of one file that a read task reads: one row group, or the whole file where it has no row groups."""

    source: InputFile
    row_groups: tuple[int, ...] | None
    first: int
    rows: int


def pieces(data: Input, finished: KeySet) -> list[Piece]:
    """The pieces that are left to read. Row groups and files whose rows are all finished are left out."""
    starts, stops = data.key_ranges
    unfinished = np.flatnonzero(finished.counts(starts, stops) < (stops - starts).astype(np.int64))
    return [piece for index in unfinished for piece in _unfinished(data.sources[index], finished)]


def _unfinished(source: InputFile, finished: KeySet) -> list[Piece]:
    every = [piece for piece in _pieces(source) if piece.rows]
    starts = np.array([source.first_key + piece.first for piece in every], np.uint64)
    rows = np.array([piece.rows for piece in every], np.int64)
    done = finished.counts(starts, starts + rows.astype(np.uint64))
    return [piece for piece, is_left in zip(every, done < rows, strict=True) if is_left]


def _pieces(source: InputFile) -> Iterator[Piece]:
    if not source.row_groups:
        yield Piece(source, None, source.first, source.rows)
        return
    first = 0
    for number, rows in enumerate(source.row_groups):
        yield Piece(source, (number,), first, rows)
        first += rows


def first_rows(data: Input, left: Sequence[Piece], count: int) -> pa.Table:
    """Up to `count` rows from the start of the pieces `left`, as the dataflow sees them; an empty table without pieces."""
    sample: list[Piece] = []
    for piece in left:
        if piece.source.damaged is None:
            sample.append(piece)
        if sum(piece.rows for piece in sample) >= count:
            break
    table = next(tables(data.filesystem, sample, data.columns, KeySet()), None)
    return _nothing(data.columns) if table is None else table.slice(0, count)


def spread_rows(data: Input, left: Sequence[Piece], count: int, places: int = 16) -> pa.Table:
    """About `count` rows from `places` places spread over the pieces `left`, because neighbouring rows are often similar."""
    readable = [piece for piece in left if piece.source.damaged is None]
    chosen = sorted({int(place) for place in np.linspace(0, len(readable) - 1, places)}) if readable else []
    each = -(-count // max(1, len(chosen)))
    samples = [table for place in chosen if (table := first_rows(data, [readable[place]], each)).num_rows]
    return pa.concat_tables(samples) if samples else _nothing(data.columns)


def _nothing(columns: Columns) -> pa.Table:
    """A table without rows, with the columns that the dataflow sees."""
    needed = pa.schema([(column, columns.types[column]) for column in columns.needed]).empty_table()
    arguments = {ARGUMENT + argument: needed[column] for argument, column in columns.arguments.items()}
    return pa.table({KEY: pa.array([], pa.uint64()), **arguments, ERROR: pa.array([], ERROR_TYPE)})


class RowsDatasource(Datasource):  # type: ignore[misc]  # Ray is untyped
    """The input as a source of Ray Data: one read task per group of pieces."""

    def __init__(self, data: Input, left: Sequence[Piece], finished: KeySet, tasks: int) -> None:
        """Groups the pieces `left` for about `tasks` read tasks, which drop the rows in `finished`."""
        super().__init__()
        self._data, self._groups = data, _share(left, tasks)
        self._finished = ray.put(finished) if len(finished.starts) else None

    def __len__(self) -> int:
        """The number of read tasks."""
        return len(self._groups)

    def get_name(self) -> str:
        """The operator's name in Ray's statistics."""
        return "Rows"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes of the files on disk."""
        return sum(_bytes(piece) for group in self._groups for piece in group)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """One task per group, whatever the parallelism."""
        tasks = []
        for group in self._groups:
            metadata = BlockMetadata(
                num_rows=sum(piece.rows for piece in group),
                size_bytes=sum(map(_bytes, group)),
                input_files=[piece.source.name for piece in group],
                exec_stats=None,
            )
            read = partial(_read, self._data.filesystem, group, self._data.columns, self._finished)
            tasks.append(ReadTask(read, metadata, per_task_row_limit=per_task_row_limit))
        return tasks


def _bytes(piece: Piece) -> int:
    return int(piece.source.read_size * piece.rows / max(1, piece.source.rows))


def _share(left: Sequence[Piece], tasks: int) -> list[list[Piece]]:
    """Groups of neighbouring pieces with about the same bytes; at least `tasks` groups if there are that many pieces."""
    total = sum(map(_bytes, left))
    target = max(1, min(TASK_BYTES, total // max(1, tasks)))
    groups: list[list[Piece]] = []
    held = target
    for piece in left:
        if held >= target:
            groups.append([])
            held = 0
        groups[-1].append(piece)
        held += _bytes(piece)
    return groups


def _read(
    fs: fsspec.AbstractFileSystem, group: Iterable[Piece], columns: Columns, finished: ray.ObjectRef | None
) -> Iterator[pa.Table]:
    """The function of a read task."""
    yield from tables(fs, group, columns, ray.get(finished) if finished is not None else KeySet())


def tables(fs: fsspec.AbstractFileSystem, group: Iterable[Piece], columns: Columns, finished: KeySet) -> Iterator[pa.Table]:
    """The rows of some pieces without the `finished` ones, as tables.

    Columns: key, id, source, position, arguments, kept columns, seconds of reading, errors. Rows that cannot be read have an
    error instead of arguments.
    """
    for reads in _together(_reads(fs, group, columns)):
        table = _table(reads, columns)
        if len(finished.starts):
            table = table.filter(pa.array(~finished.holds(table[KEY].to_numpy())))
        if table.num_rows:
            yield table


@dataclass(frozen=True)
class _ReadRows:
    """Consecutive rows that were read together.

    Attributes:
        batch: the needed columns; nulls where the rows could not be read.
        source: the file.
        first: position of the first row in the file.
        seconds: time of reading them.
        error: why they could not be read.
    """

    batch: pa.RecordBatch
    source: InputFile
    first: int
    seconds: float
    error: RowError | None = None

    @property
    def rows(self) -> int:
        return int(self.batch.num_rows)


def _reads(fs: fsspec.AbstractFileSystem, group: Iterable[Piece], columns: Columns) -> Iterator[_ReadRows]:
    for piece in group:
        source, position = piece.source, piece.first
        started = time.perf_counter()
        try:
            if source.damaged is not None:
                raise RowError("read", "ValueError", f"{source.name} is {source.damaged}")
            for batch in FORMATS[source.format].batches(fs, source, piece.row_groups, columns.needed):
                yield _ReadRows(batch, source, position, time.perf_counter() - started)
                position += batch.num_rows
                started = time.perf_counter()
        except Exception as error:  # readers raise any class about a damaged file
            if not is_damage(error):
                raise
            missing = _unreadable(piece.first + piece.rows - position, columns)
            yield _ReadRows(missing, source, position, time.perf_counter() - started, _about_file(source, error))


def _about_file(source: InputFile, error: Exception) -> RowError:
    return error if isinstance(error, RowError) else RowError("read", type(error).__name__, f"{source.name}: {reason(error)}")


def _unreadable(rows: int, columns: Columns) -> pa.RecordBatch:
    """A batch of nulls in place of rows that cannot be read."""
    types = {column: columns.types[column] for column in columns.needed}
    return pa.record_batch([pa.nulls(rows, kind) for kind in types.values()], list(types))


def _together(reads: Iterable[_ReadRows]) -> Iterator[list[_ReadRows]]:
    """Groups of neighbours with the same columns, each small enough for one table: many small files make one group."""
    held: list[_ReadRows] = []
    rows = size = 0
    for read in reads:
        if held and (rows + read.rows > READ_ROWS or read.batch.schema != held[0].batch.schema):
            yield held
            held, rows, size = [], 0, 0
        held.append(read)
        rows, size = rows + read.rows, size + read.batch.nbytes
        if size >= READ_BYTES:
            yield held
            held, rows, size = [], 0, 0
    if held:
        yield held


def _table(reads: Sequence[_ReadRows], columns: Columns) -> pa.Table:
    batch = pa.Table.from_batches([read.batch for read in reads])
    if len(reads) > 1:
        batch = batch.combine_chunks()
    types = [columns.types.get(column.name, column.type) for column in batch.schema]
    batch = batch.cast(pa.schema(list(zip(batch.column_names, types, strict=True))))
    ids = [name for read in reads for name in read.source.ids(read.first, read.rows)]
    sources = [read.source.name for read in reads for _ in range(read.rows)]
    places = [np.arange(read.first, read.first + read.rows) for read in reads]
    keys = [np.uint64(read.source.first_key) + place.astype(np.uint64) for read, place in zip(reads, places, strict=True)]
    seconds = np.concatenate([np.full(read.rows, read.seconds / max(1, read.rows)) for read in reads])
    named = {
        KEY: pa.array(np.concatenate(keys)),
        ID: pa.array(ids, pa.string()) if columns.id is None else batch[columns.id],
        SOURCE: pa.array(sources, pa.string()),
        POSITION: pa.array(np.concatenate(places)),
    }
    named |= {KEEP + column: batch[column] for column in columns.keep}
    named |= {ARGUMENT + argument: batch[column] for argument, column in columns.arguments.items()}
    errors = [read.error for read in reads for _ in range(read.rows)]
    return pa.table({**named, READ_S: pa.array(seconds), ERROR: error_array(errors)})
