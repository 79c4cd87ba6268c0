"""Writes finished rows to files under data/status=ok and data/status=failed, and subtitles beside them."""

from __future__ import annotations

import contextlib
import json
import posixpath
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pyarrow.fs import FileType
from ray.data.block import Block, BlockAccessor
from ray.data.datasource import BlockBasedFileDatasink, WriteResult

from dray.jobs.columns import ERROR, ERROR_TYPE, ID, KEEP, KEY, POSITION, PREDICTION, SOURCE
from dray.jobs.outputs.commits import DATA, is_committed, task_of
from dray.jobs.outputs.lease import refuse_other
from dray.jobs.outputs.rows_in_files import as_json, count_rows, with_versions
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import OutputConfig
from dray.pipelines.media import subtitles
from dray.pipelines.meter import LARGEST, SMALLEST, Meter

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from dray.jobs.cluster.ray_internals import TaskContext

WRITE_UUID = "write_uuid"  # Ray's name for the write's identity in a task's arguments


@dataclass
class WriteTotals:
    """What write tasks have written, each successful task counted once, and how many workers died."""

    ok: int = 0
    failed: int = 0
    deaths: int = 0
    write_s: float = 0.0
    meter: Meter = field(default_factory=Meter)

    def add(self, other: WriteTotals) -> None:
        """Adds the figures of `other`."""
        self.ok, self.failed = self.ok + other.ok, self.failed + other.failed
        self.deaths += other.deaths
        self.write_s += other.write_s
        self.meter.add(other.meter)


class Sink(BlockBasedFileDatasink):  # type: ignore[misc]  # Ray is untyped
    """Writes each block to one file per status. A file is named by its task, so a repeated task overwrites it."""

    def __init__(
        self, output: Folder, config: OutputConfig, ledger: ActorHandle, run: str, tried: ray.ObjectRef | None = None
    ) -> None:
        """`run` holds the lease of `output`. `tried`: key -> how often earlier runs have tried that failed row."""
        data = output / DATA
        super().__init__(data.path, filesystem=output.arrow(), file_format=config.format, try_create_dir=data.is_local)
        self.is_local = data.is_local
        self._output, self._config, self._ledger = output, config, ledger
        self._run, self._tried = run, tried
        self.written = WriteTotals()

    def write(self, blocks: Iterable[Block], ctx: TaskContext) -> WriteTotals:
        """Writes the blocks of one task. Runs in a worker."""
        started = time.perf_counter()
        tables = [BlockAccessor.for_block(block).to_arrow() for block in blocks]
        tables = [table for table in tables if table.num_rows]
        if not tables:
            return WriteTotals()
        table = pa.concat_tables(tables)
        name = self.filename_provider.get_filename_for_task(ctx.kwargs[WRITE_UUID], ctx.task_idx)
        refuse_other(self._output, self._run)
        if is_committed(self._output, task_of(name)):
            # An earlier attempt of this task was committed, and its result got lost. It may have had other rows: they stay.
            ok, failed = self._count("ok", name), self._count("failed", name)
        else:
            ok, failed = self._write(name, table)
        self._ledger.written.remote(name, ok, failed)
        return WriteTotals(ok, failed, write_s=time.perf_counter() - started, meter=_sum(table["meter"]))

    def _write(self, name: str, table: pa.Table) -> tuple[int, int]:
        is_failed = pc.is_valid(table[ERROR])
        ok, failed = table.filter(pc.invert(is_failed)), table.filter(is_failed)
        self._write_subtitles(ok)
        self._write_file("ok", name, ok, {PREDICTION: ok[PREDICTION]})
        position = pc.if_else(pc.greater_equal(failed[POSITION], 0), failed[POSITION], None)
        self._write_file("failed", name, failed, {POSITION: position, ERROR: self._with_attempts(failed)})
        refuse_other(self._output, self._run)
        return ok.num_rows, failed.num_rows

    def _with_attempts(self, failed: pa.Table) -> pa.Array:
        """The errors with the attempts of all runs added up."""
        if not failed.num_rows or self._tried is None:
            return failed[ERROR]
        tried: dict[int, int] = ray.get(self._tried)
        rows = zip(failed[KEY].to_pylist(), failed[ERROR].to_pylist(), strict=True)
        return pa.array([{**error, "attempts": error["attempts"] + tried.get(key, 0)} for key, error in rows], ERROR_TYPE)

    def _count(self, status: str, name: str) -> int:
        path = posixpath.join(self.path, f"status={status}", name)
        if self.filesystem.get_file_info(path).type == FileType.NotFound:
            return 0
        return count_rows(path, self.filesystem)

    def on_write_complete(self, write_result: WriteResult[WriteTotals]) -> None:
        """Adds up what the tasks have written. Runs in the driver."""
        for written in write_result.write_returns:
            if written is not None:
                self.written.add(written)

    def _write_file(self, status: str, name: str, rows: pa.Table, results: Mapping[str, pa.Array]) -> None:
        folder = posixpath.join(self.path, f"status={status}")
        if not rows.num_rows:
            # An earlier attempt of this task may have written some.
            with contextlib.suppress(FileNotFoundError):
                self.filesystem.delete_file(posixpath.join(folder, name))
            return
        columns = {ID: rows[ID], SOURCE: rows[SOURCE]}
        columns |= {column.removeprefix(KEEP): rows[column] for column in rows.column_names if column.startswith(KEEP)}
        content = self._encoded(pa.table({**columns, **results}))
        if not self.is_local:
            with self.filesystem.open_output_stream(posixpath.join(folder, name)) as file:
                file.write(content)
            return
        # On disk a file appears as a whole or not at all, so a reader never sees half of it.
        self.filesystem.create_dir(folder, recursive=True)
        hidden = posixpath.join(folder, f".{name}.part")
        with self.filesystem.open_output_stream(hidden) as file:
            file.write(content)
        self.filesystem.move(hidden, posixpath.join(folder, name))

    def _encoded(self, table: pa.Table) -> bytes | pa.Buffer:
        if self._config.format == "parquet":
            buffer = pa.BufferOutputStream()
            pq.write_table(with_versions(table), buffer)
            return buffer.getvalue()
        lines = [json.dumps(as_json(row), ensure_ascii=False, default=str, allow_nan=False) for row in table.to_pylist()]
        return "".join(line + "\n" for line in lines).encode()

    def _write_subtitles(self, rows: pa.Table) -> None:
        if not self._config.subtitles:
            return
        for row_id, prediction in zip(rows[ID].to_pylist(), rows[PREDICTION].to_pylist(), strict=True):
            for kind in self._config.subtitles:
                content = subtitles.render(prediction["chunks"] or (), kind)
                self._output.write(f"subtitles/{file_name(row_id)}.{kind}", content)


def file_name(row_id: object) -> str:
    """A row's id as a file name: underscores replace what file systems do not allow."""
    return re.sub(r"[^\w.=@+-]+", "_", str(row_id)).strip("._") or "_"


def _sum(meters: pa.ChunkedArray) -> Meter:
    """The sum of a column of meters, as Meter.add would give it."""
    flat = pa.concat_arrays(meters.chunks) if meters.num_chunks else pa.array([], meters.type)
    join = dict.fromkeys(LARGEST, pc.max) | dict.fromkeys(SMALLEST, pc.min)
    sums = {item.name: join.get(item.name, pc.sum)(flat.field(item.name)).as_py() for item in flat.type}
    return Meter(**{name: value for name, value in sums.items() if value is not None})
