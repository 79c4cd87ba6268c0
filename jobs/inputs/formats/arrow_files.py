"""Arrow IPC files and streams: `.arrow` files of `datasets`, Feather."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from dray.jobs.inputs.formats.streams import bounded
from dray.jobs.storage.folder import arrow_filesystem

if TYPE_CHECKING:
    import fsspec

    from dray.jobs.inputs.formats.file import InputFile

MAGIC = b"ARROW1"  # a file starts with it, a stream does not


def inspect(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with rows and schema, from the headers of the record batches. A local file is mapped; its data are not read."""
    with _open(fs, source.path) as file:
        schema = _schema(file)
        rows = sum(batch.num_rows for batch in _record_batches(file, [0]))
    return replace(source, rows=rows, schema=schema)


def batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """All rows; those of local files are not copied."""
    fields = [source.schema.get_field_index(column) for column in columns]
    with _open(fs, source.path) as file:
        for batch in _record_batches(file, fields):
            yield from bounded([batch.select(columns)], source.size / max(1, source.rows))


@contextmanager
def _open(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[pa.NativeFile]:
    with pa.memory_map(path) if isinstance(fs, LocalFileSystem) else arrow_filesystem(fs).open_input_file(path) as file:
        yield file


def _is_stream(file: pa.NativeFile) -> bool:
    file.seek(0)
    start = bytes(file.read(len(MAGIC)))
    file.seek(0)
    return start != MAGIC


def _schema(file: pa.NativeFile) -> pa.Schema:
    opened = pa.ipc.open_stream if _is_stream(file) else pa.ipc.open_file
    return opened(file).schema


def _record_batches(file: pa.NativeFile, fields: list[int]) -> Iterator[pa.RecordBatch]:
    """All record batches, with only these fields."""
    options = pa.ipc.IpcReadOptions(included_fields=fields)
    if _is_stream(file):
        yield from pa.ipc.open_stream(file, options=options)
    else:
        reader = pa.ipc.open_file(file, options=options)
        yield from map(reader.get_batch, range(reader.num_record_batches))
