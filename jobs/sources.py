"""What a job reads: files found at a path, checked, and which of their columns are needed."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as pads
from fsspec.core import split_protocol, url_to_fs
from fsspec.implementations.local import LocalFileSystem

from jobs.rows import ID, KEY, SOURCE
from jobs.storage import arrow_filesystem, reason
from pipelines.config import InputConfig, JobConfig, nearest
from pipelines.errors import InputError
from pipelines.tasks import Task

if TYPE_CHECKING:
    import fsspec

SUFFIXES = {".parquet": "parquet", ".pq": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".csv": "csv"}
ARROW_FORMATS = {"parquet": "parquet", "jsonl": "json", "csv": "csv"}


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: how the user would write it; it names the file in keys, ids and the `source` column.
        path: how its filesystem names it.
        rows: in the file.
        size: bytes of the file.
    """

    name: str
    path: str
    format: str
    rows: int
    size: int


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
    schema: pa.Schema
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
    first = next(source for source in sources if source.rows)
    schema = open_dataset(fs, first).schema
    return Input(fs, sources, schema, _columns(config, task, schema.names, first.name))


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
    hidden = ("_", ".")
    return [file for file in candidates if not posixpath.basename(file).startswith(hidden) and not fs.isdir(file)]


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
        source = Source(name, path, kind, 0, size)
        rows = open_dataset(fs, source).count_rows() if size else 0
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"input.path: {name} is not a readable {kind} file: {reason(error)}") from None
    return Source(name, path, kind, rows, size)


def open_dataset(fs: fsspec.AbstractFileSystem, source: Source) -> pads.Dataset:
    """One file as pyarrow reads it."""
    return pads.dataset(source.path, format=ARROW_FORMATS[source.format], filesystem=arrow_filesystem(fs))


def _columns(config: JobConfig, task: Task, names: Sequence[str], file: str) -> Columns:
    """Pairs arguments with columns. Raises InputError for a column that the input lacks."""
    required = task.inputs[0]
    arguments = dict(config.input.columns)
    arguments.setdefault(required, required)
    columns = Columns(arguments, config.output.keep, config.input.id)
    keys = {column: f"input.columns.{argument}" for argument, column in arguments.items()}
    for column in columns.needed:
        if column not in names:
            key = keys.get(column, "output.keep" if column in config.output.keep else "input.id")
            raise InputError(f"{key}: {file} has no column {column}{nearest(column, list(names))}")
    for column in config.output.keep:
        if column in (ID, SOURCE, "prediction", "error", KEY):
            raise InputError(f"output.keep: {column} is a column of the output itself; rename it in the input")
    return columns
