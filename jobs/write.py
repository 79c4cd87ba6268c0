"""The sink: finished rows as files under data/status=ok and data/status=failed, and subtitles beside them."""

from __future__ import annotations

import base64
import contextlib
import json
import math
import posixpath
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import BlockBasedFileDatasink, WriteResult

from jobs.rows import ID, KEEP, METER, SOURCE
from jobs.storage import Folder
from pipelines import subtitles
from pipelines.config import OutputConfig
from pipelines.engine import Meter

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.data._internal.execution.interfaces import TaskContext

WRITE_UUID = "write_uuid"  # Ray's name for the write's identity in a task's arguments


@dataclass
class Written:
    """What write tasks have written, as Ray counted it: exactly once per task that succeeded."""

    ok: int = 0
    failed: int = 0
    write_s: float = 0.0
    meter: Meter = field(default_factory=Meter)

    def add(self, other: Written) -> None:
        """Adds each figure."""
        self.ok, self.failed = self.ok + other.ok, self.failed + other.failed
        self.write_s += other.write_s
        self.meter.add(other.meter)


class Sink(BlockBasedFileDatasink):  # type: ignore[misc]  # Ray is untyped
    """Writes a block as one file per status. A file's name depends on its task alone, so a repeated task overwrites."""

    def __init__(self, output: Folder, config: OutputConfig, tally: ActorHandle) -> None:
        data = output / "data"
        super().__init__(data.path, filesystem=output.arrow(), file_format=config.format, try_create_dir=data.is_local)
        self._output, self._config, self._tally = output, config, tally
        self.written = Written()

    def write(self, blocks: Iterable[Block], ctx: TaskContext) -> Written:
        """Writes the blocks of one task; runs in a worker."""
        started = time.perf_counter()
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return Written()
        table = pa.concat_tables(tables)
        name = self.filename_provider.get_filename_for_task(ctx.kwargs[WRITE_UUID], ctx.task_idx)
        is_failed = pc.is_valid(table["error"])
        ok, failed = table.filter(pc.invert(is_failed)), table.filter(is_failed)
        self._write_subtitles(ok)
        self._write_file("ok", name, ok, "prediction")
        self._write_file("failed", name, failed, "error")
        self._tally.add.remote(name, ok.num_rows, failed.num_rows)
        return Written(ok.num_rows, failed.num_rows, time.perf_counter() - started, _sum(table["meter"]))

    def on_write_complete(self, write_result: WriteResult[Written]) -> None:
        """Adds up what the tasks have written; runs in the driver."""
        for written in write_result.write_returns:
            if written is not None:
                self.written.add(written)

    def _write_file(self, status: str, name: str, rows: pa.Table, result: str) -> None:
        folder = posixpath.join(self.path, f"status={status}")
        if not rows.num_rows:
            # An earlier attempt of this task may have had some.
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(posixpath.join(folder, name))
            return
        columns = {ID: rows[ID], SOURCE: rows[SOURCE]}
        columns |= {column.removeprefix(KEEP): rows[column] for column in rows.column_names if column.startswith(KEEP)}
        table = pa.table({**columns, result: rows[result]})
        if self.try_create_dir:
            self.filesystem.create_dir(folder, recursive=True)
        with self.filesystem.open_output_stream(posixpath.join(folder, name)) as file:
            if self._config.format == "parquet":
                pq.write_table(table, file)
            else:
                lines = [json.dumps(_json(row), ensure_ascii=False, default=str, allow_nan=False) for row in table.to_pylist()]
                file.write("".join(line + "\n" for line in lines).encode())

    def _write_subtitles(self, rows: pa.Table) -> None:
        if not self._config.subtitles:
            return
        for row_id, prediction in zip(rows[ID].to_pylist(), rows["prediction"].to_pylist(), strict=True):
            for kind in self._config.subtitles:
                content = subtitles.render(prediction["chunks"] or (), kind)
                self._output.write(f"subtitles/{file_name(row_id)}.{kind}", content)


def file_name(row_id: object) -> str:
    """A row's id as a file name: what file systems do not take becomes an underscore."""
    return re.sub(r"[^\w.=@+-]+", "_", str(row_id)).strip("._") or "_"


def _json(value: object) -> object:
    """A value as JSON has it: bytes in base64, numbers that are not finite as null."""
    if isinstance(value, dict):
        return {key: _json(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_json(inner) for inner in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _sum(meters: pa.ChunkedArray) -> Meter:
    flat = pa.concat_arrays(meters.chunks) if meters.num_chunks else pa.array([], METER)
    sums = {item.name: pc.sum(flat.field(item.name)).as_py() or 0.0 for item in METER}
    sums["peak_bytes"] = pc.max(flat.field("peak_bytes")).as_py() or 0.0
    sums["first_forward"] = pc.min(flat.field("first_forward")).as_py() or math.inf
    return Meter(**sums)
