"""Folders on local disk or on any storage of fsspec, for the driver and, as pyarrow filesystems, for Ray."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from typing import IO, TYPE_CHECKING, Any, TypeVar, cast

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue

from dray.jobs.storage.s3 import RetryingS3, install_retrying_s3
from dray.pipelines.config import JobConfig
from dray.pipelines.transient import call_with_retries, code_of

if TYPE_CHECKING:
    import pyarrow.fs


STATE = "_dray"  # folder beside the data: config, fingerprint, checkpoint, summary, report
SUMMARY = f"{STATE}/summary.json"
REPORT = f"{STATE}/report.html"
PRECISION = f"{STATE}/precision.json"
BATCH_OUTPUT, BATCH_ERRORS = "batch_output.jsonl", "batch_errors.jsonl"  # beside STATE, for OpenAI's Batch files

T = TypeVar("T")

install_retrying_s3()


@dataclass(frozen=True)
class Folder:
    """A folder on any storage.

    Attributes:
        url: the path or URL as the user wrote it.
        options: fsspec's storage options.
    """

    url: str
    options: Mapping[str, JsonValue]

    @cached_property
    def _resolved(self) -> tuple[fsspec.AbstractFileSystem, str]:
        fs, path = url_to_fs(self.url, **self.options)
        return fs, path.rstrip("/")

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The fsspec filesystem."""
        return self._resolved[0]

    @property
    def path(self) -> str:
        """The path as the filesystem names it, without the protocol; absolute on local disk."""
        return self._resolved[1]

    @property
    def is_local(self) -> bool:
        """Whether the folder is on this machine's disk."""
        return isinstance(self.fs, LocalFileSystem)

    def __truediv__(self, name: str) -> Folder:
        """The folder `name` in this folder."""
        return Folder(posixpath.join(self.url, name), self.options)

    def arrow(self) -> pyarrow.fs.FileSystem:
        """The filesystem for pyarrow and Ray Data."""
        return arrow_filesystem(self.fs)

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None if there is no file."""
        path = posixpath.join(self.path, name)
        while True:
            try:
                content: bytes = self._again(self.fs.cat_file, path)
            except FileNotFoundError:
                return None
            except OSError as error:
                if code_of(error) != "PreconditionFailed":  # the read broke off, and the file was rewritten meanwhile
                    raise
            else:
                return content

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a whole file; on local disk atomically."""
        data = content.encode() if isinstance(content, str) else content
        path = posixpath.join(self.path, name)
        if not self.is_local:
            self._again(self.fs.pipe_file, path, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)

    @contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """Opens a file for writing; the whole file appears when the block ends, or none."""
        path = posixpath.join(self.path, name)
        if not self.is_local:
            with self.fs.open(path, "wb") as file:
                yield file
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)

    def create(self, name: str, content: str) -> bool:
        """Writes a file if there is none yet. Returns whether this call wrote it; of several calls at once one succeeds.

        The content must be unique to the caller: if the storage's answer is lost, the caller knows its file by the content.
        """
        path = posixpath.join(self.path, name)
        try:
            if self.is_local:
                os.makedirs(os.path.dirname(path), exist_ok=True)
                with open(path, "x", encoding="utf-8") as file:
                    file.write(content)
            else:
                self._again(partial(self.fs.pipe_file, mode="create"), path, content.encode())
        except OSError as error:
            if not isinstance(error, FileExistsError) and code_of(error) != "PreconditionFailed":
                raise
            return not self.is_local and self.read(name) == content.encode()
        return True

    def files(self) -> list[str]:
        """The paths of all files below the folder, as the filesystem names them; none if there is no folder."""
        self.fs.invalidate_cache()
        try:
            return sorted(self._again(self.fs.find, self.path))
        except FileNotFoundError:
            return []

    def remove(self) -> None:
        """Deletes the folder or file with everything in it, if it exists."""
        self.fs.invalidate_cache()
        with suppress(FileNotFoundError):
            self._again(partial(self.fs.rm, recursive=True), self.path)

    def _again(self, call: Callable[..., T], path: str, *content: bytes) -> T:
        """Returns `call(path, *content)`; retries it while the storage fails."""
        return call_with_retries(partial(call, path, *content), f"{self._protocol}://{path}")

    @property
    def _protocol(self) -> str:
        return self.fs.protocol if isinstance(self.fs.protocol, str) else str(self.fs.protocol[0])


def output_folder(config: JobConfig) -> Folder:
    """The output folder of a config; its storage options default to the input's."""
    options = config.output.storage_options
    return Folder(config.output.path, config.input.storage_options if options is None else options)


def arrow_filesystem(fs: fsspec.AbstractFileSystem) -> pyarrow.fs.FileSystem:
    """The pyarrow filesystem for an fsspec filesystem; pyarrow's own for local disk."""
    from pyarrow import fs as arrow

    if isinstance(fs, LocalFileSystem):
        return arrow.LocalFileSystem()
    return arrow.PyFileSystem(arrow.FSSpecHandler(fs if isinstance(fs, RetryingS3) else Retried(fs)))


class Retried:
    """A filesystem for pyarrow's handler that retries calls which fail with transient errors."""

    def __init__(self, fs: fsspec.AbstractFileSystem) -> None:
        self._fs = fs

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        if name.startswith("_"):
            raise AttributeError(name)
        attribute = getattr(self._fs, name)
        return partial(self._call, name) if callable(attribute) else attribute

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Retried) and bool(self._fs == other._fs)

    def __hash__(self) -> int:
        return hash(self._fs)

    def _call(self, name: str, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401
        what = " ".join([name, *(each for each in arguments if isinstance(each, str))])
        return call_with_retries(partial(getattr(self._fs, name), *arguments, **options), what)

    def exists(self, path: str) -> bool:
        """Whether a path exists. Raises if it cannot be reached, where fsspec returns False."""
        return self._type(path) is not None

    def isfile(self, path: str) -> bool:
        """Whether a path is a file. Raises as `exists` does."""
        return self._type(path) == "file"

    def isdir(self, path: str) -> bool:
        """Whether a path is a folder. Raises as `exists` does."""
        return self._type(path) == "directory"

    def _type(self, path: str) -> str | None:
        try:
            return str(self._call("info", path)["type"])
        except FileNotFoundError:
            return None

    def open(self, path: str, mode: str = "rb") -> IO[bytes]:
        """Opens a file; reads are retried, too."""
        file = self._call("open", path, mode=mode)
        return cast("IO[bytes]", _Reading(file, path)) if mode == "rb" else file


class _Reading:
    def __init__(self, file: IO[bytes], path: str) -> None:
        self._file, self._path = file, path

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return getattr(self._file, name)

    def read(self, size: int = -1) -> bytes:
        place = self._file.tell()

        def read() -> bytes:
            if self._file.tell() != place:
                self._file.seek(place)
            return self._file.read(size)

        return call_with_retries(read, f"read {self._path}")
