"""Loads the results of a job in Python."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping

import pyarrow.dataset as pads
from pydantic import JsonValue

from dray.jobs.outputs.commits import result_files
from dray.jobs.storage.folder import Folder
from dray.pipelines.errors import OutputError, reason


def load(path: str, status: str, storage_options: Mapping[str, JsonValue]) -> pads.Dataset:
    """The files of one status in an output folder as a dataset. Raises OutputError where there are none."""
    folder = Folder(path, storage_options)
    try:
        files = sorted(result_files(folder, status).values())
    except Exception as error:  # clients of object stores raise their own classes
        raise OutputError(f"cannot read {path}: {reason(error)}") from None
    if not files:
        raise OutputError(f"{path} holds no rows of status {status}; name the output folder of a job")
    kind = "json" if posixpath.splitext(files[0])[1] == ".jsonl" else "parquet"
    return pads.dataset(files, format=kind, filesystem=folder.arrow())
