"""Opens the value of a cell as a file."""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import IO, cast

from dray.pipelines.media import fetch


@dataclass(frozen=True)
class MediaOptions:
    """How media are read.

    Attributes:
        rate: samples per second that the model takes.
        storage_options: for object stores, as fsspec takes them.
        max_bytes: of a download, an image file, a decoded image, and a recording that must be in memory as a whole.
        max_seconds: of a recording.
        max_pixels: of a picture.
    """

    rate: int = 16_000
    storage_options: Mapping[str, object] = field(default_factory=dict)
    max_bytes: int = 2 << 30
    max_seconds: float = math.inf
    max_pixels: float = math.inf


def url(cell: object) -> str | None:
    """The URL in the value of a media cell; None if there is none."""
    if isinstance(cell, Mapping) and cell.get("bytes") is None:
        cell = cell.get("path")
    return cell if isinstance(cell, str) and fetch.is_url(cell) else None


def opened(cell: object, options: MediaOptions) -> IO[bytes]:
    """The encoded bytes of a media cell as a file.

    Args:
        cell: bytes (anything with the buffer protocol), a path, URL, data URL or base64, an open file, or a struct of
            `bytes` and `path` as in `datasets`.
        options: where media may come from.

    Raises:
        ValueError: the cell holds none of these.
        OSError: there is no such file.
        RowError: its URL cannot be fetched.
    """
    if isinstance(cell, Mapping):
        return opened(cell.get("path") if cell.get("bytes") is None else cell["bytes"], options)
    if cell is None:
        raise ValueError("the cell is empty")
    if isinstance(cell, Exception):  # raised when its URL was fetched
        raise cell
    if isinstance(cell, str):
        return _named(cell, options)
    if isinstance(cell, (bytes, bytearray, memoryview)):
        return io.BytesIO(cell)
    if hasattr(cell, "read"):
        return cast("IO[bytes]", cell)
    try:
        import pyarrow as pa

        reader: IO[bytes] = pa.BufferReader(cell)  # large cells are not copied
    except TypeError:
        raise ValueError(f"expected media as bytes, path, URL or array, got {type(cell).__name__}") from None
    return reader


def _named(cell: str, options: MediaOptions) -> IO[bytes]:
    if not cell:
        raise ValueError("the cell is empty")
    if fetch.is_url(cell):
        return fetch.fetch(cell, options.storage_options, options.max_bytes)
    path = os.path.expanduser(cell.removeprefix("file://"))
    if os.path.isfile(path):
        return open(path, "rb")
    encoded = cell.partition(",")[2] if cell.startswith("data:") else cell
    try:
        if len(encoded) >= 16:
            return io.BytesIO(base64.b64decode(encoded, validate=True))
    except ValueError:  # binascii.Error, or a letter that is not ASCII
        pass
    shown = cell if len(cell) <= 100 else cell[:97] + "..."
    raise FileNotFoundError(f"no such file, and neither a URL nor base64: {shown}")
