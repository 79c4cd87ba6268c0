"""The table of input formats: how each is known by its files' names, inspected, and read."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.formats import arrow_files, lines, media_files, tabular, tars
from jobs.formats.streams import COMPRESSIONS

if TYPE_CHECKING:
    import fsspec


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: how the user would write it; it names the file in keys, ids and the `source` column.
        path: how its filesystem names it.
        format: its name in FORMATS.
        rows: in the file.
        size: bytes of the file.
        row_groups: rows of each, for Parquet.
        schema: its columns.
    """

    name: str
    path: str
    format: str
    rows: int = 0
    size: int = 0
    row_groups: tuple[int, ...] = ()
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def read_size(self) -> int:
        """Bytes that reading it takes."""
        return len(self.path) if FORMATS[self.format].is_row else self.size

    def ids(self, first: int, count: int) -> list[str]:
        """Names of the rows [first, first + count) for people."""
        if FORMATS[self.format].is_row:
            return [self.name]
        return [f"{self.name}:{position}" for position in range(first, first + count)]


Inspect = Callable[["fsspec.AbstractFileSystem", Source], Source]
Batches = Callable[["fsspec.AbstractFileSystem", Source, "tuple[int, ...] | None", "list[str]"], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Format:
    """One kind of input file.

    Attributes:
        name: as `input.format` takes it.
        holds: what is in its files; one input holds one of these.
        suffixes: of its files, in lower case.
        inspect: (filesystem, source with name, path and size) -> the source with rows and schema. Raises OSError,
            ValueError or tarfile.TarError where the file is damaged.
        batches: (filesystem, source, row groups or None for all, columns) -> its rows in order, these columns of them.
        compressed: whether a compression's suffix may follow its own.
        is_row: whether a file is one row; such files are not opened before the model side opens them.
        meant: (pipeline argument, columns of a file) -> columns that may be meant where none is called like the argument.
    """

    name: str
    holds: str
    suffixes: frozenset[str]
    inspect: Inspect
    batches: Batches
    compressed: bool = False
    is_row: bool = False
    meant: Callable[[str, Sequence[str]], list[str]] = lambda argument, columns: []


FORMATS = {
    format.name: format
    for format in (
        Format("parquet", "tables", frozenset({".parquet", ".pq"}), tabular.inspect_parquet, tabular.parquet_batches),
        Format(
            "jsonl",
            "tables",
            frozenset({".jsonl", ".ndjson", ".json"}),
            tabular.inspect_jsonl,
            tabular.jsonl_batches,
            compressed=True,
        ),
        Format("csv", "tables", frozenset({".csv"}), tabular.inspect_csv, tabular.csv_batches, compressed=True),
        Format(
            "text",
            "lines of text",
            frozenset({".txt", ".text"}),
            lines.inspect,
            lines.batches,
            compressed=True,
            meant=lambda argument, columns: list(columns),
        ),
        Format(
            "files",
            "media",
            media_files.SUFFIXES,
            media_files.inspect,
            media_files.batches,
            is_row=True,
            meant=lambda argument, columns: [media_files.PATH],
        ),
        Format(
            "webdataset",
            "samples in tars",
            frozenset({".tar", ".tgz"}),
            tars.inspect,
            tars.batches,
            compressed=True,
            meant=tars.columns_of_kind,
        ),
        Format("arrow", "tables", frozenset({".arrow", ".feather"}), arrow_files.inspect, arrow_files.batches),
    )
}


def format_of(path: str) -> Format | None:
    """The format that a file's suffix says, or None."""
    stem, suffix = posixpath.splitext(posixpath.basename(path).lower())
    is_compressed = suffix in COMPRESSIONS and suffix != ".tgz"
    if is_compressed:
        suffix = posixpath.splitext(stem)[1]
    known = (format for format in FORMATS.values() if suffix in format.suffixes)
    return next((format for format in known if format.compressed or not is_compressed), None)
