"""The checked input of a job: the files at its paths, and the columns that are needed."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dray.jobs.columns import ERROR, ID, KEY, POSITION, PREDICTION, SOURCE
from dray.jobs.inputs.formats.file import InputFile
from dray.jobs.inputs.formats.registry import FORMATS
from dray.jobs.inputs.formats.streams import is_empty
from dray.jobs.inputs.inventory import is_same
from dray.jobs.inputs.listing import list_files
from dray.jobs.keys import Keys, KeySet
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import InputError, nearest, reason
from dray.pipelines.tasks.task import Task
from dray.pipelines.transient import is_transient

if TYPE_CHECKING:
    import fsspec


@dataclass(frozen=True)
class Columns:
    """The input columns that are read: `arguments` is pipeline argument -> column."""

    arguments: dict[str, str]
    keep: tuple[str, ...]
    id: str | None
    types: Mapping[str, pa.DataType] = field(default_factory=dict)  # column -> type that holds its values of all files

    @property
    def needed(self) -> list[str]:
        """The input columns to read, each once."""
        return list(dict.fromkeys([*self.arguments.values(), *self.keep, *([self.id] if self.id else [])]))


@dataclass(frozen=True)
class Input:
    """The checked input of a job."""

    filesystem: fsspec.AbstractFileSystem
    sources: tuple[InputFile, ...]
    columns: Columns

    @cached_property
    def rows(self) -> int:
        """The number of rows in all files."""
        return sum(source.rows for source in self.sources)

    @cached_property
    def key_ranges(self) -> tuple[Keys, Keys]:
        """The first key of each file, and the key after its last one; both of shape (files,)."""
        ranges = np.array([source.keys for source in self.sources], np.uint64)
        return ranges[:, 0], ranges[:, 1]

    def finished_rows(self, finished: KeySet) -> int:
        """How many rows of the input are in `finished`."""
        return int(finished.counts(*self.key_ranges).sum())


def open_input(config: JobConfig, task: Task, known: Mapping[str, InputFile] | None = None) -> Input:
    """Lists and checks the input. A damaged file counts as one row, which will fail.

    Args:
        config: the job.
        task: its task.
        known: files of earlier runs, by name; those that have not changed are not opened.

    Raises:
        InputError: no file at the path, an unknown format, only damaged files, a missing column, or no rows.
    """
    fs, files = list_files(config.input)
    sources = _inspected(fs, files, known or {})
    readable = [source for source in sources if source.rows and source.damaged is None]
    if not readable:
        where = ", ".join(config.input.paths)
        damaged = next((f"{source.name} is {source.damaged}" for source in sources if source.damaged), f"{where} holds no rows")
        raise InputError(f"input.path: {damaged}")
    columns = _columns(config, task, readable)
    for source in readable:
        _refuse_missing(config, columns, source)
    types = {column: _common_type(column, readable) for column in columns.needed}
    data = Input(fs, sources, replace(columns, types=types))
    _refuse_shared_keys(data)
    return data


def _refuse_shared_keys(data: Input) -> None:
    """Raises InputError where the keys of two files overlap. Keys are hashes of names, so this is very unlikely."""
    starts, stops = data.key_ranges
    order = np.argsort(starts)
    overlaps = np.flatnonzero(starts[order][1:] < stops[order][:-1])
    if len(overlaps):
        one, other = (data.sources[order[overlaps[0] + place]].name for place in (0, 1))
        raise InputError(f"input.path: the rows of {one} and {other} would have the same keys; rename one of the files")


def _common_type(column: str, sources: Sequence[InputFile]) -> pa.DataType:
    """The type that holds the column's values of all files. Raises InputError where there is none."""
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


def _inspected(
    fs: fsspec.AbstractFileSystem, files: Sequence[InputFile], known: Mapping[str, InputFile]
) -> tuple[InputFile, ...]:
    def inspect(file: InputFile) -> InputFile:
        earlier = known.get(file.name)
        return replace(earlier, path=file.path) if earlier is not None and is_same(file, earlier) else _inspect(fs, file)

    if all(file.is_media for file in files):  # no file is opened, so threads gain nothing
        return tuple(map(inspect, files))
    with ThreadPoolExecutor(32) as pool:
        return tuple(pool.map(inspect, files))


def _inspect(fs: fsspec.AbstractFileSystem, file: InputFile) -> InputFile:
    """The file with its rows and columns, or with the reason why it is damaged."""
    format = FORMATS[file.format]
    try:
        if not file.is_media and format.may_be_empty and (not file.size or is_empty(fs, file.path)):
            return file
        return format.inspect(fs, file)
    except (OSError, ValueError, pa.ArrowException, tarfile.TarError) as error:
        if not is_damage(error):
            raise InputError(f"input.path: cannot read {file.name}: {reason(error)}") from None
        return replace(file, rows=1, damaged=f"not a readable {file.format} file: {reason(error)}")


def is_damage(error: BaseException) -> bool:
    """Whether an error of reading a file means that its content is damaged, and not that the file cannot be reached."""
    is_system_error = isinstance(error, OSError) and error.errno is not None  # the OSErrors of decoders have no errno
    return not is_system_error and not is_transient(error)


def _columns(config: JobConfig, task: Task, sources: Sequence[InputFile]) -> Columns:
    """The column of each argument, and the other columns that are needed."""
    source = sources[0]
    arguments = {name: name for name in task.inputs if name in source.schema.names} | config.input.columns
    main, *others = task.inputs
    if main not in arguments and not (task.optional and any(name in arguments for name in others)):
        arguments[main] = _main_column(main, source)
    for column in config.output.keep:
        if column in (ID, SOURCE, POSITION, PREDICTION, ERROR, KEY):
            raise InputError(f"output.keep: {column} is a column of the output itself; rename it in the input")
    return Columns(arguments, config.output.keep, config.input.id or FORMATS[source.format].id)


def _main_column(argument: str, source: InputFile) -> str:
    """The column that the format chooses for an argument, where no column has the argument's name."""
    meant = FORMATS[source.format].meant(argument, source.schema.names)
    if len(meant) > 1:
        raise InputError(f"input.columns.{argument}: {source.name} has the columns {' and '.join(meant)}; choose one")
    return meant[0] if meant else argument


def _refuse_missing(config: JobConfig, columns: Columns, source: InputFile) -> None:
    """Raises InputError where a file lacks a needed column or has it twice."""
    names = source.schema.names
    keys = {column: f"input.columns.{argument}" for argument, column in columns.arguments.items()}
    for column in columns.needed:
        key = keys.get(column, "output.keep" if column in config.output.keep else "input.id")
        if column not in names:
            raise InputError(f"{key}: {source.name} has no column {column}{nearest(column, names)}")
        if names.count(column) > 1:
            raise InputError(f"{key}: {source.name} has the column {column} twice")
