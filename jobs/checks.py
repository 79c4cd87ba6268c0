"""Everything that can be checked before a worker starts."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from jobs.formats.table import FORMATS
from jobs.lease import Lease
from jobs.read import Keys, Piece, first_rows, is_finished, pieces, row_keys
from jobs.resources import Work
from jobs.resume import claim, failed_rows, fingerprint, finished_keys
from jobs.rows import ARGUMENT, items
from jobs.sources import Input, open_input
from jobs.storage import Folder, output_folder
from pipelines import tasks
from pipelines.config import JobConfig
from pipelines.errors import ConfigError, ModelError, OutputError, RowError, first_line
from pipelines.models.loading import load_phases, model_identity, pinned, resolve_task

if TYPE_CHECKING:
    from pipelines.phases import Phases


SAMPLE = 16  # rows looked at before the job starts
GENERATED_TOKENS = 128  # that a row is guessed to ask for


@dataclass(frozen=True)
class Job:
    """A config that has been checked completely: its model loads, its input is there, its output is ours."""

    config: JobConfig
    data: Input
    output: Folder
    finished: Keys
    left: list[Piece]
    failed_earlier: int
    work: Work
    schema: pa.DataType
    lease: Lease | None  # None of a job that is only looked at

    @property
    def rows_left(self) -> int:
        """Rows not finished by earlier runs."""
        return self.work.rows


def check(config: JobConfig, fresh: bool = False, dry: bool = False) -> Job:
    """Checks everything that can be checked before a worker starts, and claims the output folder.

    Args:
        config: the job.
        fresh: delete what earlier runs have written.
        dry: leave the output folder alone, and count all rows as left.

    Raises:
        UsageError: what is wrong, and what to do.
    """
    task = resolve_task(config)
    data = open_input(config, task)
    phases = load_phases(config, weights=False)
    sample = first_rows(data, SAMPLE)
    _try_out(phases, sample)
    schema = phases.schema({name.removeprefix(ARGUMENT): sample[name].type for name in sample.column_names})
    if config.output.subtitles and "chunks" not in str(schema):
        raise ConfigError("output.subtitles: set parameters.return_timestamps, or there is nothing to time them by")
    output = output_folder(config)
    _refuse_inside(output, data)
    identity = model_identity(config, phases)
    finished, lease = np.empty(0, np.uint64), None
    if not dry:
        lease = Lease(output)
        lease.take()
        try:
            claim(output, fingerprint(config, task, data.columns, identity), config, fresh)
            finished = finished_keys(output)
        except BaseException:
            lease.release()
            raise
    left = pieces(data, finished)
    rows = data.rows - _finished_rows(data, finished)
    failed = 0 if dry else failed_rows(output)
    work = _work(phases, data, sample, rows)
    return Job(pinned(config, task, identity), data, output, finished, left, failed, work, schema, lease)


def _try_out(phases: Phases, sample: pa.Table) -> None:
    """Preprocesses a few rows: what is wrong with all of them is wrong with the config. Damaged media are not.

    Raises:
        ModelError: no row can be preprocessed.
    """
    error = None
    rows = [item for item in items(sample, phases) if not isinstance(item, RowError)]
    if phases.task.fans_out:
        silence = {"array": np.zeros(phases.source.rate, np.float32), "sampling_rate": phases.source.rate}
        rows = [dataclasses.replace(item, cells={**item.cells, phases.task.inputs[0]: silence}) for item in rows]
    for item in rows:
        try:
            phases.check(item)
        except Exception as failure:  # pipelines refuse arguments in their own ways
            error = failure
            continue
        try:
            phases.decode(item)
        except Exception:  # decoders raise whatever they like about a row
            continue
        try:
            for _ in phases.preprocess(item):
                pass
            return
        except Exception as failure:  # and so do tokenizers
            error = failure
    if error is not None:
        raise ModelError(
            f"parameters: {phases.task.name} cannot take any of the first {sample.num_rows} rows: {first_line(error)}"
        )


def _refuse_inside(output: Folder, data: Input) -> None:
    """Raises OutputError where the next run would read this one's results."""
    for source in data.sources:
        if source.path.startswith(output.path + "/"):
            raise OutputError(f"output.path: {output.url} holds the input {source.name}; choose another folder")


def _finished_rows(data: Input, finished: Keys) -> int:
    return sum(int(is_finished(row_keys(source.name, 0, source.rows), finished).sum()) for source in data.sources)


def _work(phases: Phases, data: Input, sample: pa.Table, rows: int) -> Work:
    """Costs by rule of thumb: two operations per weight and position."""
    weights = sum(parameter.numel() for parameter in phases.pipe.model.parameters())
    element_size = next(phases.pipe.model.parameters()).element_size()
    return Work(rows, 2.0 * weights * _positions(phases, data, sample), weights * element_size, phases.task.fans_out)


def _positions(phases: Phases, data: Input, sample: pa.Table) -> float:
    """Positions (tokens, frames, patches) of an average row, by the bytes of its cell or file."""
    argument = next((ARGUMENT + name for name in phases.task.inputs if ARGUMENT + name in sample.column_names), None)
    cell_bytes = sample[argument].nbytes / max(1, sample.num_rows) if argument else 0
    if phases.task.elements == tasks.IMAGE:
        return 256
    if phases.task.elements == tasks.AUDIO:
        # 16 kB of compressed audio are a second, and a second 50 frames. Behind a path may be anything; say a minute.
        sizes = [source.size for source in data.sources if FORMATS[source.format].is_row]
        if sizes:
            cell_bytes = sum(sizes) / len(sizes)
        elif argument and pa.types.is_string(sample[argument].type):
            cell_bytes = 60 * 16_000
        return max(1.0, 50 * cell_bytes / 16_000)
    new_tokens = GENERATED_TOKENS if phases.task.elements == tasks.GENERATED else 0
    limit = getattr(phases.pipe.model.config, "max_position_embeddings", None) or 4096
    return max(1.0, min(cell_bytes / 4 + new_tokens, limit))
