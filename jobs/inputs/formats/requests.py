"""OpenAI's Batch files: every line is a request, {"custom_id": ..., "method": "POST", "url": "/v1/...", "body": {...}}."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from dray.jobs.inputs.formats import lines

if TYPE_CHECKING:
    import fsspec

    from dray.jobs.inputs.formats.file import InputFile

CUSTOM_ID, REQUEST = "custom_id", "request"
SCHEMA = pa.schema([(CUSTOM_ID, pa.string()), (REQUEST, pa.string())])  # `request` is the whole line


def inspect(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with its number of lines. Raises ValueError as `lines.inspect` does."""
    return replace(lines.inspect(fs, source), schema=SCHEMA)


def batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The lines with their custom_id. A line that is not a request has none; its row fails later."""
    for batch in lines.batches(fs, source, row_groups, lines.SCHEMA.names):
        (texts,) = batch.columns
        names = pa.array([_custom_id(text) for text in texts.to_pylist()], pa.string())
        yield pa.record_batch([names, texts], SCHEMA).select(columns)


def _custom_id(line: str) -> str | None:
    try:
        request = json.loads(line)
        name = request.get(CUSTOM_ID) if isinstance(request, dict) else None
        if isinstance(name, str):
            name.encode()  # Arrow refuses lone surrogates
            return name
    except (ValueError, RecursionError):
        pass
    return None
