"""The table of input formats: the suffixes of each, and the functions that inspect and read its files."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from dray.jobs.inputs.formats import arrow_files, lines, media_files, requests, tabular, tars
from dray.jobs.inputs.formats.file import InputFile
from dray.jobs.inputs.formats.streams import COMPRESSIONS

if TYPE_CHECKING:
    import fsspec


Inspect = Callable[["fsspec.AbstractFileSystem", InputFile], InputFile]
Batches = Callable[["fsspec.AbstractFileSystem", InputFile, "tuple[int, ...] | None", "list[str]"], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class Format:
    """One format of input files.

    Attributes:
        name: the value of `input.format`.
        holds: the kind of data in its files; the files of one input hold the same kind.
        suffixes: the suffixes of its files, in lower case.
        inspect: (filesystem, source with name, path and size) -> the source with rows and schema. Raises OSError,
            ValueError or tarfile.TarError where the file is damaged.
        batches: (filesystem, source, row groups or None for all, columns) -> these columns of its rows, in order.
        compressed: whether a suffix of a compression may follow.
        may_be_empty: whether a file without bytes, after decompression, is a complete file without rows.
        is_row: whether a file is one row; only the pipeline opens such files.
        id: the column with the ids of rows, if the config names none.
        meant: (pipeline argument, columns of a file) -> columns that may be the argument, if none has its name.
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
    """The format of a file by its suffix; None if the suffix is unknown."""
    stem, suffix = posixpath.splitext(posixpath.basename(path).lower())
    is_compressed = suffix in COMPRESSIONS and suffix != ".tgz"
    if is_compressed:
        suffix = posixpath.splitext(stem)[1]
    known = (format for format in FORMATS.values() if suffix in format.suffixes)
    return next((format for format in known if format.compressed or not is_compressed), None)
