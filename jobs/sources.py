"""What a job reads: files found at a path, checked, and which of their columns are needed."""

from __future__ import annotations

import os
import posixpath
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pads
from fsspec.core import split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pyarrow import csv, json

from jobs.rows import ID, KEY, SOURCE
from jobs.storage import arrow_filesystem, reason
from pipelines.config import InputConfig, JobConfig, nearest
from pipelines.errors import InputError
from pipelines.tasks import Task

if TYPE_CHECKING:
    import fsspec

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}
JSON_BLOCK = 64 << 20  # bytes parsed at once, and the longest line


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: how the user would write it; it names the file in keys, ids and the `source` column.
        path: how its filesystem names it.
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


@dataclass(frozen=True)
class Columns:
    """Which input columns are read, and the pipeline argument each one is."""

    arguments: dict[str, str]
    keep: tuple[str, ...]
    id: str | None

    @property
    def needed(self) -> list[str]:
        """Input columns, each once."""
        return list(dict.fromkeys([*self.arguments.values(), *self.keep, *([self.id] if self.id else [])]))


@dataclass(frozen=True)
class Input:
    """What a job reads, checked."""

    filesystem: fsspec.AbstractFileSystem
    sources: tuple[Source, ...]
    columns: Columns

    @property
    def rows(self) -> int:
        """In all files."""
        return sum(source.rows for source in self.sources)


def open_input(config: JobConfig, task: Task) -> Input:
    """Lists and checks the input.

    Raises:
        InputError: nothing at the path, an unknown or damaged format, a missing column, or no rows.
    """
    fs, files = _list(config.input)
    with ThreadPoolExecutor(32) as pool:
        sources = tuple(pool.map(partial(_inspect, fs, config.input.format), files))
    if not any(source.rows for source in sources):
        raise InputError(f"input.path: {_paths(config.input)} holds no rows")
    columns = _columns(config, task)
    for source in sources:
        if source.rows:
            _refuse_missing(config, columns, source)
    return Input(fs, sources, columns)


def _paths(config: InputConfig) -> str:
    return ", ".join(config.paths)


def _list(config: InputConfig) -> tuple[fsspec.AbstractFileSystem, list[tuple[str, str]]]:
    """The filesystem, and (name, path) of every file, each once, in order of the names."""
    found: dict[str, str] = {}
    fs = None
    for pattern in config.paths:
        try:
            fs, path = url_to_fs(pattern, **config.storage_options)
            matches = _matches(fs, path)
        except (OSError, ValueError, ImportError) as error:
            raise InputError(f"input.path: cannot list {pattern}: {reason(error)}") from None
        except Exception as error:  # clients of object stores raise their own
            raise InputError(f"input.path: cannot list {pattern}: {type(error).__name__}: {reason(error)}") from None
        if not matches:
            raise InputError(f"input.path: there is no file at {pattern}")
        found |= {_name(fs, match, pattern): match for match in matches}
    assert fs is not None
    return fs, sorted(found.items())


def _matches(fs: fsspec.AbstractFileSystem, path: str) -> list[str]:
    if any(mark in path for mark in "*?["):
        candidates = fs.glob(path)
    elif fs.isdir(path):
        candidates = [file for file in fs.find(path) if _suffix(file) in SUFFIXES]
    else:
        candidates = [path] if fs.exists(path) else []
    root = path.split("*")[0].rpartition("/")[0] if "*" in path else path
    return [file for file in candidates if not _is_hidden(file.removeprefix(root)) and not fs.isdir(file)]


def _is_hidden(path: str) -> bool:
    """Whether a file, or a folder that it lies in, has a name that means: no data."""
    return any(part.startswith(("_", ".")) for part in path.split("/"))


def _name(fs: fsspec.AbstractFileSystem, path: str, pattern: str) -> str:
    """The file as the user would write it: relative where the pattern is, a URL where it is one."""
    if isinstance(fs, LocalFileSystem):
        relative = not os.path.isabs(os.path.expanduser(split_protocol(pattern)[1]))
        return os.path.relpath(path) if relative else path
    return f"{split_protocol(pattern)[0]}://{path}"


def _suffix(path: str) -> str:
    return posixpath.splitext(path.removesuffix(".gz"))[1].lower()


def _inspect(fs: fsspec.AbstractFileSystem, forced: str | None, file: tuple[str, str]) -> Source:
    name, path = file
    kind = forced or SUFFIXES.get(_suffix(path))
    if kind is None:
        raise InputError(f"input.format: cannot tell the format of {name} by its suffix; set it to parquet, jsonl or csv")
    try:
        size = fs.size(path)
        if not size:
            return Source(name, path, kind)
        dataset = open_dataset(fs, Source(name, path, kind))
        groups: tuple[int, ...] = ()
        if kind == "parquet":
            (fragment,) = dataset.get_fragments()
            groups = tuple(group.num_rows for group in fragment.row_groups)
        rows = sum(groups) if groups else dataset.count_rows()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"input.path: {name} is not a readable {kind} file: {reason(error)}") from None
    return Source(name, path, kind, rows, size, groups, dataset.schema)


def open_dataset(fs: fsspec.AbstractFileSystem, source: Source) -> pads.Dataset:
    """One file as pyarrow reads it."""
    # Text in quotes may hold line breaks, and a line of JSON may hold a recording.
    kinds = {
        "csv": pads.CsvFileFormat(csv.ParseOptions(newlines_in_values=True)),
        "jsonl": pads.JsonFileFormat(read_options=json.ReadOptions(block_size=JSON_BLOCK)),
        "parquet": pads.ParquetFileFormat(),
    }
    return pads.dataset(source.path, format=kinds[source.format], filesystem=arrow_filesystem(fs))


def _columns(config: JobConfig, task: Task) -> Columns:
    """Pairs arguments with columns."""
    required = task.inputs[0]
    arguments = dict(config.input.columns)
    arguments.setdefault(required, required)
    for column in config.output.keep:
        if column in (ID, SOURCE, "prediction", "error", KEY):
            raise InputError(f"output.keep: {column} is a column of the output itself; rename it in the input")
    return Columns(arguments, config.output.keep, config.input.id)


def _refuse_missing(config: JobConfig, columns: Columns, source: Source) -> None:
    """Raises InputError for a column that a file lacks."""
    names = source.schema.names
    keys = {column: f"input.columns.{argument}" for argument, column in columns.arguments.items()}
    for column in columns.needed:
        if column not in names:
            key = keys.get(column, "output.keep" if column in config.output.keep else "input.id")
            raise InputError(f"{key}: {source.name} has no column {column}{nearest(column, names)}")
