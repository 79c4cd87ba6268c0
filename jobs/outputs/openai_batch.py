"""Writes the results of a job on OpenAI's Batch files in OpenAI's format: a file of answers and one of errors."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from dray.jobs.columns import ERROR, ID, PREDICTION
from dray.jobs.outputs.commits import TaskFiles
from dray.jobs.storage.folder import BATCH_ERRORS, BATCH_OUTPUT, Folder

PREFIXES = {"chat.completion": "chatcmpl", "text_completion": "cmpl"}  # of the ids of answers, by their `object`


def write_batch_files(output: Folder) -> None:
    """Writes the committed rows that succeeded to BATCH_OUTPUT, and those that failed to BATCH_ERRORS, one line each."""
    now = math.floor(time.time())
    with output.stream(BATCH_OUTPUT) as file:
        for row in _rows(output, "ok"):
            response = {"status_code": 200, "request_id": f"req_{_digest(row)}", "body": _body(row, now)}
            file.write(_line(row, response, None))
    with output.stream(BATCH_ERRORS) as file:
        for row in _rows(output, "failed"):
            error = row[ERROR]
            file.write(_line(row, None, {"code": error["type"], "message": error["message"]}))


def _rows(output: Folder, status: str) -> Iterator[dict[str, Any]]:
    files = TaskFiles.of(output)
    paths = [path for task in sorted(files.committed) for path in files.data.get(task, []) if f"/status={status}/" in path]
    for path in paths:
        with output.arrow().open_input_file(path) as file:
            if path.endswith(".parquet"):
                for batch in pq.ParquetFile(file).iter_batches():
                    yield from batch.to_pylist()
            else:
                for line in file.read().splitlines():
                    yield json.loads(line)


def _body(row: dict[str, Any], now: int) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(row[PREDICTION])
    prefix = PREFIXES.get(str(body.get("object")))
    return body if prefix is None else {"id": f"{prefix}-{_digest(row)}", "created": now, **body}


def _line(row: dict[str, Any], response: dict[str, Any] | None, error: dict[str, Any] | None) -> bytes:
    line = {"id": f"batch_req_{_digest(row)}", "custom_id": row[ID], "response": response, "error": error}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def _digest(row: dict[str, Any]) -> str:
    return hashlib.sha256(str(row[ID]).encode()).hexdigest()[:24]
