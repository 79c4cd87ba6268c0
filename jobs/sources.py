"""What a job reads: files found at a path, checked, and which of their columns are needed."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from jobs.formats.streams import is_empty
from jobs.formats.table import FORMATS, Source
from jobs.listing import list_files
from jobs.rows import ID, KEY, SOURCE
from jobs.storage import reason
from pipelines.config import JobConfig, nearest
from pipelines.errors import InputError
from pipelines.tasks import Task

if TYPE_CHECKING:
    import fsspec

__all__ = ["Columns", "Input", "Source", "open_input"]


@dataclass(frozen=True)
class Columns:
    """Which input columns are read, and the pipeline argument each one is."""

    arguments: dict[str, str]
    keep: tuple[str, ...]
    id: str | None
    types: Mapping[str, pa.DataType] = field(default_factory=dict)  # that all files' values of a column fit in

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
    fs, files = list_files(config.input)
    sources = _inspected(fs, files)
    if not any(source.rows for source in sources):
        raise InputError(f"input.path: {', '.join(config.input.paths)} holds no rows")
    columns = _columns(config, task, sources)
    for source in sources:
        if source.rows:
            _refuse_missing(config, columns, source)
    types = {column: _common_type(column, [source for source in sources if source.rows]) for column in columns.needed}
    return Input(fs, sources, replace(columns, types=types))


def _common_type(column: str, sources: Sequence[Source]) -> pa.DataType:
    """The type that the column's values of all files fit in. Raises InputError where there is none."""
    first, common = sources[0], sources[0].schema.field(column).type
    for source in sources[1:]:
        kind = source.schema.field(column).type
        if kind != common:
            schemas = [pa.schema([(column, common)]), pa.schema([(column, kind)])]
            try:
                common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
            except (pa.ArrowTypeError, pa.ArrowInvalid):
                raise InputError(
                    f"input.path: column {column} is {common} in {first.name} and {kind} in {source.name}; make them one type"
                ) from None
    return common


def _inspected(fs: fsspec.AbstractFileSystem, files: Sequence[Source]) -> tuple[Source, ...]:
    inspect = partial(_inspect, fs)
    if all(FORMATS[file.format].is_row for file in files):  # nothing is opened, so there is nothing to wait for
        return tuple(map(inspect, files))
    with ThreadPoolExecutor(32) as pool:
        return tuple(pool.map(inspect, files))


def _inspect(fs: fsspec.AbstractFileSystem, file: Source) -> Source:
    format = FORMATS[file.format]
    try:
        if not format.is_row and (not file.size or is_empty(fs, file.path)):
            return file
        return format.inspect(fs, file)
    except (OSError, ValueError, pa.ArrowException, tarfile.TarError) as error:
        raise InputError(f"input.path: {file.name} is not a readable {file.format} file: {reason(error)}") from None


def _columns(config: JobConfig, task: Task, sources: Sequence[Source]) -> Columns:
    """Pairs arguments with columns."""
    source = next(source for source in sources if source.rows)
    arguments = {name: name for name in task.inputs if name in source.schema.names} | config.input.columns
    main, *others = task.inputs
    if main not in arguments and not (task.optional and any(name in arguments for name in others)):
        arguments[main] = _main_column(main, source)
    for column in config.output.keep:
        if column in (ID, SOURCE, "prediction", "error", KEY):
            raise InputError(f"output.keep: {column} is a column of the output itself; rename it in the input")
    return Columns(arguments, config.output.keep, config.input.id)


def _main_column(argument: str, source: Source) -> str:
    """The column that the format says is meant, where none has the argument's name."""
    meant = FORMATS[source.format].meant(argument, source.schema.names)
    if len(meant) > 1:
        raise InputError(f"input.columns.{argument}: {source.name} has the columns {' and '.join(meant)}; choose one")
    return meant[0] if meant else argument


def _refuse_missing(config: JobConfig, columns: Columns, source: Source) -> None:
    """Raises InputError for a column that a file lacks."""
    names = source.schema.names
    keys = {column: f"input.columns.{argument}" for argument, column in columns.arguments.items()}
    for column in columns.needed:
        key = keys.get(column, "output.keep" if column in config.output.keep else "input.id")
        if column not in names:
            raise InputError(f"{key}: {source.name} has no column {column}{nearest(column, names)}")
        if names.count(column) > 1:
            raise InputError(f"{key}: {source.name} has the column {column} twice")
