"""The output's files: counting their rows, values as JSON, and the versions that made them."""

from __future__ import annotations

import base64
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq

from dray.jobs.versions import versions

VERSIONS = b"dray.versions"  # key of a Parquet file's metadata
COUNTED_BYTES = 16 << 20  # read at a time


def count_rows(path: str, filesystem: pa.fs.FileSystem) -> int:
    """The number of rows of a file of the output."""
    with filesystem.open_input_file(path) as file:
        if path.endswith(".parquet"):
            return int(pq.ParquetFile(file).metadata.num_rows)
        count = 0
        while block := file.read(COUNTED_BYTES):
            count += block.count(b"\n")
    return count


def as_json(value: object) -> object:
    """A value that JSON can hold: bytes become base64, numbers that are not finite become None."""
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [as_json(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_versions(table: pa.Table) -> pa.Table:
    """The table with this process's versions in its metadata, which Parquet keeps."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), VERSIONS: json.dumps(versions())})


def versions_in(path: str, filesystem: pa.fs.FileSystem) -> dict[str, str]:
    """Name -> version of the packages that made a file of the output; empty where the file does not say."""
    if not path.endswith(".parquet"):
        return {}
    with filesystem.open_input_file(path) as file:
        metadata = pq.read_metadata(file).metadata or {}
    made_with: dict[str, str] = json.loads(metadata.get(VERSIONS, b"{}"))
    return made_with
