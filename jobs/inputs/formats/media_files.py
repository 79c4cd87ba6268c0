"""Media files: each is one row with its path, which the pipeline opens."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

if TYPE_CHECKING:
    import fsspec

    from dray.jobs.inputs.formats.file import InputFile

PATH, FILE_NAME = "path", "file_name"
SCHEMA = pa.schema([(PATH, pa.string()), (FILE_NAME, pa.string())])

IMAGES = frozenset(["png", "jpg", "jpeg", "gif", "bmp", "webp", "tif", "tiff"])
VIDEO = frozenset(["mp4", "mkv", "webm", "mov", "avi", "m4v", "mpg", "mpeg", "wmv", "flv", "3gp"])
# Video containers may hold only sound.
AUDIO = VIDEO | {"wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac", "wma", "aif", "aiff", "au", "caf", "amr"}
SUFFIXES = frozenset(f".{extension}" for extension in AUDIO | IMAGES)


def inspect(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with one row, whatever it holds: an empty file becomes a failed row and is not lost."""
    return replace(source, rows=1, schema=SCHEMA)


def batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The one row: a path that any node can open, absolute on local disk and a URL elsewhere, and the bare file name."""
    path = source.path if isinstance(fs, LocalFileSystem) else source.name
    row = {PATH: path, FILE_NAME: posixpath.basename(source.path)}
    yield pa.record_batch({column: [row[column]] for column in columns}, pa.schema([SCHEMA.field(name) for name in columns]))
