"""The input's rows as a Dataset, with row keys that stay the same from run to run."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray
from ray.data.block import BlockMetadata
from ray.data.datasource import Datasource, ReadTask

from jobs.formats.streams import READ_BYTES, READ_ROWS
from jobs.formats.table import FORMATS
from jobs.rows import ARGUMENT, ID, KEEP, KEY, READ_S, SOURCE
from jobs.sources import Columns, Input, Source

if TYPE_CHECKING:
    import fsspec

Keys = npt.NDArray[np.uint64]

TASK_BYTES = 64 << 20  # a read task's share of the input
GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # odd, so that position * GOLDEN differs for every position of a file


@dataclass(frozen=True)
class Piece:
    """Rows of one file that a read task reads: a row group where it has some, otherwise the file."""

    source: Source
    row_groups: tuple[int, ...] | None
    first: int
    rows: int


def row_keys(source: str, first: int, count: int) -> Keys:
    """Keys of rows [first, first + count) of a file: distinct within it, and spread over 64 bits between files."""
    digest = hashlib.blake2b(source.encode(), digest_size=8).digest()
    base = np.frombuffer(digest, np.uint64)
    with np.errstate(over="ignore"):
        return base + np.arange(first, first + count, dtype=np.uint64) * GOLDEN


def is_finished(keys: Keys, finished: Keys) -> npt.NDArray[np.bool_]:
    """Which of `keys` are in `finished`, which is sorted."""
    if not len(finished):
        return np.zeros(len(keys), bool)
    places = np.minimum(np.searchsorted(finished, keys), len(finished) - 1)
    return np.asarray(finished[places] == keys)


def pieces(data: Input, finished: Keys) -> list[Piece]:
    """What is left to read. Row groups and files whose rows are all finished are not in it."""
    left = []
    for source in data.sources:
        if _unfinished(source, 0, source.rows, finished):
            left += [piece for piece in _pieces(source) if _unfinished(source, piece.first, piece.rows, finished)]
    return left


def _unfinished(source: Source, first: int, rows: int, finished: Keys) -> bool:
    if not len(finished):
        return rows > 0
    return rows > 0 and not is_finished(row_keys(source.name, first, rows), finished).all()


def _pieces(source: Source) -> Iterator[Piece]:
    if not source.row_groups:
        yield Piece(source, None, 0, source.rows)
        return
    first = 0
    for number, rows in enumerate(source.row_groups):
        yield Piece(source, (number,), first, rows)
        first += rows


def first_rows(data: Input, count: int) -> pa.Table:
    """Up to `count` rows from the start of the input, as the dataflow will see them."""
    sample: list[Piece] = []
    for piece in chain.from_iterable(map(_pieces, data.sources)):
        if piece.rows:
            sample.append(piece)
        if sum(piece.rows for piece in sample) >= count:
            break
    table: pa.Table = next(tables(data.filesystem, sample, data.columns, np.empty(0, np.uint64)))
    return table.slice(0, count)


class RowsDatasource(Datasource):  # type: ignore[misc]  # Ray is untyped
    """Ray Data's view of the input: one read task per group of pieces."""

    def __init__(self, data: Input, left: Sequence[Piece], finished: Keys, tasks: int) -> None:
        """`left` is read by about `tasks` tasks; rows in `finished` are dropped as they are read."""
        super().__init__()
        self._data, self._groups = data, _share(left, tasks)
        self._finished = ray.put(finished) if len(finished) else None

    def __len__(self) -> int:
        """The number of read tasks."""
        return len(self._groups)

    def get_name(self) -> str:
        """The operator's name in Ray's statistics."""
        return "Rows"

    def estimate_inmemory_data_size(self) -> int:
        """Bytes, as the files lie on disk."""
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
    """Neighbouring pieces in groups of about equal bytes; at least `tasks` groups where there are as many pieces."""
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
    """What a read task does."""
    yield from tables(fs, group, columns, ray.get(finished) if finished is not None else np.empty(0, np.uint64))


def tables(fs: fsspec.AbstractFileSystem, group: Iterable[Piece], columns: Columns, finished: Keys) -> Iterator[pa.Table]:
    """The rows of some pieces, without those that are `finished`: key, id, source, arguments and kept columns."""
    for spans in _together(_spans(fs, group, columns.needed)):
        table = _table(spans, columns)
        if len(finished):
            table = table.filter(pa.array(~is_finished(table[KEY].to_numpy(), finished)))
        if table.num_rows:
            yield table


@dataclass(frozen=True)
class _Span:
    """Rows that were read at once.

    Attributes:
        batch: the needed columns.
        source: the file.
        first: position of the first row in the file.
        seconds: that reading them took.
    """

    batch: pa.RecordBatch
    source: Source
    first: int
    seconds: float

    @property
    def rows(self) -> int:
        return int(self.batch.num_rows)


def _spans(fs: fsspec.AbstractFileSystem, group: Iterable[Piece], columns: list[str]) -> Iterator[_Span]:
    for piece in group:
        position = piece.first
        started = time.perf_counter()
        for batch in FORMATS[piece.source.format].batches(fs, piece.source, piece.row_groups, columns):
            yield _Span(batch, piece.source, position, time.perf_counter() - started)
            position += batch.num_rows
            started = time.perf_counter()


def _together(spans: Iterable[_Span]) -> Iterator[list[_Span]]:
    """Neighbours with the same columns that fit one table; of many small files, many in one."""
    held: list[_Span] = []
    rows = size = 0
    for span in spans:
        if held and (rows + span.rows > READ_ROWS or span.batch.schema != held[0].batch.schema):
            yield held
            held, rows, size = [], 0, 0
        held.append(span)
        rows, size = rows + span.rows, size + span.batch.nbytes
        if size >= READ_BYTES:
            yield held
            held, rows, size = [], 0, 0
    if held:
        yield held


def _table(spans: Sequence[_Span], columns: Columns) -> pa.Table:
    batch = pa.Table.from_batches([span.batch for span in spans])
    if len(spans) > 1:
        batch = batch.combine_chunks()
    types = [columns.types.get(column.name, column.type) for column in batch.schema]
    batch = batch.cast(pa.schema(list(zip(batch.column_names, types, strict=True))))
    ids = [name for span in spans for name in span.source.ids(span.first, span.rows)]
    sources = [span.source.name for span in spans for _ in range(span.rows)]
    keys = [row_keys(span.source.name, span.first, span.rows) for span in spans]
    seconds = np.concatenate([np.full(span.rows, span.seconds / max(1, span.rows)) for span in spans])
    named = {
        KEY: pa.array(np.concatenate(keys)),
        ID: pa.array(ids, pa.string()) if columns.id is None else batch[columns.id],
        SOURCE: pa.array(sources, pa.string()),
    }
    named |= {KEEP + column: batch[column] for column in columns.keep}
    named |= {ARGUMENT + argument: batch[column] for argument, column in columns.arguments.items()}
    return pa.table({**named, READ_S: pa.array(seconds)})
