"""Files as streams of bytes, decompressed by their suffix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, TYPE_CHECKING, cast

import pyarrow as pa

from dray.jobs.storage.folder import arrow_filesystem

if TYPE_CHECKING:
    import fsspec

COMPRESSIONS = {".gz": "gzip", ".tgz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}  # as pyarrow names them
READ_BYTES = 16 << 20  # about the most bytes of a batch
READ_ROWS = 8192  # most rows of a batch


def compression(path: str) -> str | None:
    """The compression of a file by its suffix; None if it has none."""
    return next((codec for suffix, codec in COMPRESSIONS.items() if path.lower().endswith(suffix)), None)


def open_stream(fs: fsspec.AbstractFileSystem, path: str) -> IO[bytes]:
    """Opens a file, decompressed. Reading raises OSError if its content does not fit its suffix."""
    return cast("IO[bytes]", arrow_filesystem(fs).open_input_stream(path, compression=compression(path)))


def is_empty(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Whether a file is compressed and has no content."""
    if compression(path) is None:
        return False
    with open_stream(fs, path) as stream:
        return not stream.read(1)


def bounded(batches: Iterable[pa.RecordBatch], row_bytes: float) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of at most READ_ROWS rows and about READ_BYTES. `row_bytes`: average bytes of a row."""
    rows = max(1, min(READ_ROWS, int(READ_BYTES / max(1, row_bytes))))
    for batch in batches:
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)
