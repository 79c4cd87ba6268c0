"""The inventory: the input files as earlier runs have found them, so that only new and changed files are inspected."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import pyarrow as pa
import pyarrow.parquet as pq

from dray.jobs.inputs.formats.file import InputFile
from dray.jobs.inputs.formats.registry import FORMATS
from dray.jobs.storage.folder import STATE, Folder

INVENTORY = f"{STATE}/inputs.parquet"
SCHEMA = pa.schema(
    [
        ("name", pa.string()),
        ("path", pa.string()),
        ("format", pa.string()),
        ("rows", pa.int64()),
        ("size", pa.int64()),
        ("version", pa.string()),
        ("damaged", pa.string()),
        ("row_groups", pa.list_(pa.int64())),
        ("schema", pa.binary()),
    ]
)

Inventory = Mapping[str, InputFile]  # by name


def read_inventory(output: Folder) -> Inventory:
    """The files of earlier runs into this folder, by name; none before the first run."""
    content = output.read(INVENTORY)
    if content is None:
        return {}
    parsed = functools.cache(lambda schema: pa.ipc.read_schema(pa.py_buffer(schema)))
    files: dict[str, InputFile] = {}
    for row in pq.read_table(pa.BufferReader(content)).to_pylist():
        row |= {"row_groups": tuple(row["row_groups"]), "schema": parsed(row["schema"])}
        files[row["name"]] = InputFile(**row, is_media=FORMATS[row["format"]].is_row)
    return files


def write_inventory(output: Folder, known: Inventory, sources: Iterable[InputFile]) -> None:
    """Writes the inventory: the files of this run added to those of earlier runs."""
    serialized = functools.cache(lambda schema: schema.serialize().to_pybytes())
    merged = {**known, **{source.name: source for source in sources}}
    rows = [{**_fields(source), "schema": serialized(source.schema)} for source in merged.values()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
    output.write(INVENTORY, sink.getvalue().to_pybytes())


def _fields(source: InputFile) -> dict[str, object]:
    return {name: getattr(source, name) for name in SCHEMA.names}


def is_same(source: InputFile, known: InputFile | None) -> bool:
    """Whether a listed file has not changed since an earlier run inspected it."""
    return known is not None and (source.format, source.size, source.version) == (known.format, known.size, known.version)
