"""The table of input formats: how each is known by its files' names, inspected, and read."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import pyarrow as pa
from dray.jobs.inputs.formats import arrow_files, lines, media_files, requests, tabular, tars
from dray.jobs.inputs.formats.streams import COMPRESSIONS
from dray.jobs.keys import first_key

if TYPE_CHECKING:
    import fsspec


WHOLE_FILE = -1  # the position of the one row that a damaged file is: should it be mended, its rows come after it


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: how the user would write it; it names the file in keys, ids and the `source` column.
        path: how its filesystem names it.
        format: its name in FORMATS.
        rows: in the file; 1 of a damaged one.
        size: bytes of the file.
        version: of its content, as its storage tells: an etag, or when it was changed; empty where it does not.
        damaged: why it cannot be read, where that is so. It is then one row, which fails.
        row_groups: rows of each, for Parquet.
        schema: its columns.
    """

    name: str
    path: str
    format: str
    rows: int = 0
    size: int = 0
    version: str = ""
    damaged: str | None = None
    row_groups: tuple[int, ...] = ()
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))

    @property
    def read_size(self) -> int:
        """Bytes that reading it takes."""
        return len(self.path) if self.is_row else self.size

    @property
    def is_row(self) -> bool:
        """Whether the file as a whole is one row."""
        return FORMATS[self.format].is_row or self.damaged is not None

    @property
    def first(self) -> int:
        """The position of its first row: 0, or of a damaged file WHOLE_FILE."""
        return 0 if self.damaged is None else WHOLE_FILE

    @cached_property
    def first_key(self) -> int:
        """The key of position 0."""
        return first_key(self.name)

    @property
    def keys(self) -> tuple[int, int]:
        """The key of its first row, and the one after its last row's."""
        return self.first_key + self.first, self.first_key + self.first + self.rows

    def ids(self, first: int, count: int) -> list[str]:
        """Names of the rows [first, first + count) for people."""
        if self.is_row:
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
        may_be_empty: whether a file of no bytes, decompressed, is a whole file without rows.
        is_row: whether a file is one row; such files are not opened before the model side opens them.
        id: the column that names its rows, where none is chosen.
        meant: (pipeline argument, columns of a file) -> columns that may be meant where none is called like the argument.
    """

    name: str
    holds: str
    suffixes: frozenset[str]
    inspect: Inspect
    batches: Batches
    compressed: bool = False
    may_be_empty: bool = False
    is_row: bool = False
    id: str | None = None
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
            may_be_empty=True,
        ),
        Format(
            "csv", "tables", frozenset({".csv"}), tabular.inspect_csv, tabular.csv_batches, compressed=True, may_be_empty=True
        ),
        Format(
            "text",
            "lines of text",
            frozenset({".txt", ".text"}),
            lines.inspect,
            lines.batches,
            compressed=True,
            may_be_empty=True,
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
        Format(
            "openai",
            "requests",
            frozenset(),
            requests.inspect,
            requests.batches,
            compressed=True,
            may_be_empty=True,
            id=requests.CUSTOM_ID,
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
