"""Rows of the output's files: counted, and as JSON has them."""

from __future__ import annotations

import base64
import math

import pyarrow as pa
import pyarrow.parquet as pq

COUNTED_BYTES = 16 << 20  # read at a time


def count_rows(path: str, filesystem: pa.fs.FileSystem) -> int:
    """Rows of a file that this sink has written."""
    with filesystem.open_input_file(path) as file:
        if path.endswith(".parquet"):
            return int(pq.ParquetFile(file).metadata.num_rows)
        count = 0
        while block := file.read(COUNTED_BYTES):
            count += block.count(b"\n")
    return count


def as_json(value: object) -> object:
    """A value as JSON has it: bytes in base64, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value
