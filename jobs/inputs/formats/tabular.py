"""Parquet, JSON lines and CSV, read with pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pads
from pyarrow import csv, json

from dray.jobs.inputs.formats.streams import READ_BYTES, READ_ROWS, bounded, open_stream
from dray.jobs.storage.folder import arrow_filesystem

if TYPE_CHECKING:
    import fsspec

    from dray.jobs.inputs.formats.file import InputFile

JSON_BLOCK = 64 << 20  # bytes parsed at once, and the longest line; a line of JSON may hold a recording


def inspect_parquet(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with rows, row groups and schema, from its footer."""
    fragment = _parquet(fs, source)
    groups = tuple(group.num_rows for group in fragment.row_groups)
    return replace(source, rows=sum(groups), row_groups=groups, schema=fragment.physical_schema)


def parquet_batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The rows of some row groups; None: of all."""
    fragment = _parquet(fs, source)
    if row_groups is not None:
        fragment = fragment.subset(row_group_ids=list(row_groups))
    rows = max(1, min(READ_ROWS, READ_BYTES // max(1, source.size // max(1, source.rows))))
    yield from fragment.to_batches(
        schema=source.schema, columns=columns, batch_size=rows, batch_readahead=1, fragment_readahead=1
    )


def _parquet(fs: fsspec.AbstractFileSystem, source: InputFile) -> pads.ParquetFileFragment:
    return pads.ParquetFileFormat().make_fragment(source.path, arrow_filesystem(fs))


def inspect_csv(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with rows, which needs parsing all of it, and with schema, from its first block."""
    with open_stream(fs, source.path) as stream:
        schema = _csv(stream).schema
    counted = {schema.names[0]: pa.binary()}  # a type that any value fits
    with open_stream(fs, source.path) as stream:
        rows = sum(batch.num_rows for batch in _csv(stream, counted))
    return replace(source, rows=rows, schema=schema)


def csv_batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """All rows, in the types of the file's schema."""
    types = {column: source.schema.field(column).type for column in columns}
    with open_stream(fs, source.path) as stream:
        yield from bounded(_csv(stream, types), source.size / max(1, source.rows))


def _csv(stream: object, types: Mapping[str, pa.DataType] | None = None) -> csv.CSVStreamingReader:
    """A reader of the columns in `types`; None: of all columns, with types from the first block."""
    parse = csv.ParseOptions(newlines_in_values=True)  # in quotes
    convert = csv.ConvertOptions(include_columns=list(types), column_types=types) if types is not None else None
    return csv.open_csv(stream, parse_options=parse, convert_options=convert)


def inspect_jsonl(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with rows, which needs parsing all of it, and with schema, from its first block."""
    with open_stream(fs, source.path) as stream:
        schema = _jsonl(stream).schema
    with open_stream(fs, source.path) as stream:
        rows = sum(batch.num_rows for batch in _jsonl(stream, []))
    return replace(source, rows=rows, schema=schema)


def jsonl_batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """All rows, in the types of the file's schema; null where a line lacks a column."""
    fields = [source.schema.field(column) for column in columns]
    with open_stream(fs, source.path) as stream:
        yield from bounded(_jsonl(stream, fields), source.size / max(1, source.rows))


def _jsonl(stream: object, fields: Sequence[pa.Field] | None = None) -> json.JSONStreamingReader:
    """A reader of `fields`; None: of the columns in the first block."""
    parse = json.ParseOptions()
    if fields is not None:
        parse = json.ParseOptions(explicit_schema=pa.schema(fields), unexpected_field_behavior="ignore")
    return json.open_json(stream, read_options=json.ReadOptions(block_size=JSON_BLOCK), parse_options=parse)
