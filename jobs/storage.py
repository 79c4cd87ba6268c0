"""Folders on local disk or anything fsspec knows, for the driver and, as pyarrow filesystems, for Ray."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import fsspec
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from pydantic import JsonValue

from pipelines.config import JobConfig

if TYPE_CHECKING:
    import pyarrow.fs


STATE = "_dray"  # folder beside the data: config, fingerprint, checkpoint, summary, report
SUMMARY = f"{STATE}/summary.json"
REPORT = f"{STATE}/report.html"


@dataclass(frozen=True)
class Folder:
    """A folder and how to reach it.

    Attributes:
        url: as the user wrote it.
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
        """The folder as its filesystem names it, without the protocol; absolute on local disk."""
        return self._resolved[1]

    @property
    def is_local(self) -> bool:
        """Whether it lies on this machine's disk."""
        return isinstance(self.fs, LocalFileSystem)

    def __truediv__(self, name: str) -> Folder:
        """The folder `name` in this one."""
        return Folder(posixpath.join(self.url, name), self.options)

    def arrow(self) -> pyarrow.fs.FileSystem:
        """The filesystem for pyarrow and Ray Data."""
        return arrow_filesystem(self.fs)

    def read(self, name: str) -> bytes | None:
        """A file's content, or None where there is none."""
        try:
            content: bytes = self.fs.cat_file(posixpath.join(self.path, name))
        except FileNotFoundError:
            return None
        return content

    def write(self, name: str, content: str | bytes) -> None:
        """Writes a whole file; on local disk it appears at once or not at all."""
        data = content.encode() if isinstance(content, str) else content
        path = posixpath.join(self.path, name)
        if not self.is_local:
            self.fs.pipe_file(path, data)
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f"{path}.{os.getpid()}.tmp"
        with open(temporary, "wb") as file:
            file.write(data)
        os.replace(temporary, path)

    def create(self, name: str, content: str) -> bool:
        """Writes a file that is not there yet; of several who try at once, one succeeds. Returns whether it was this one."""
        path = posixpath.join(self.path, name)
        if self.is_local:
            os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            if self.is_local:
                with open(path, "x", encoding="utf-8") as file:
                    file.write(content)
            else:
                self.fs.pipe_file(path, content.encode(), mode="create")
        except FileExistsError:
            return False
        return True

    def files(self) -> list[str]:
        """Paths of all files below, as the filesystem names them; none where the folder is missing."""
        self.fs.invalidate_cache()
        return sorted(self.fs.find(self.path)) if self.fs.exists(self.path) else []

    def remove(self) -> None:
        """Deletes the folder and all in it, if it is there."""
        self.fs.invalidate_cache()
        if self.fs.exists(self.path):
            self.fs.rm(self.path, recursive=True)


def output_folder(config: JobConfig) -> Folder:
    """Where the results go; storage options default to the input's."""
    options = config.output.storage_options
    return Folder(config.output.path, config.input.storage_options if options is None else options)


def arrow_filesystem(fs: fsspec.AbstractFileSystem) -> pyarrow.fs.FileSystem:
    """The pyarrow filesystem for an fsspec one; local disk by pyarrow itself."""
    from pyarrow import fs as arrow

    if isinstance(fs, LocalFileSystem):
        return arrow.LocalFileSystem()
    return arrow.PyFileSystem(arrow.FSSpecHandler(fs))


def reason(error: BaseException) -> str:
    """An I/O error in a few words."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())
