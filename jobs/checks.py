"""Everything that can be checked before a worker starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.read import Keys, Piece, pieces, row_keys
from jobs.resources import Work
from jobs.resume import claim, fingerprint, finished_keys
from jobs.sources import Input, open_input
from jobs.storage import Folder, output_folder
from pipelines.config import JobConfig
from pipelines.errors import ConfigError
from pipelines.loading import load_phases, model_identity, resolve_task

if TYPE_CHECKING:
    from pipelines.phases import Phases


@dataclass(frozen=True)
class Job:
    """A config that has been checked completely: its model loads, its input is there, its output is ours."""

    config: JobConfig
    data: Input
    output: Folder
    finished: Keys
    left: list[Piece]
    work: Work

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
    if config.output.subtitles and "chunks" not in str(phases.schema()):
        raise ConfigError("output.subtitles: set parameters.return_timestamps, or there is nothing to time them by")
    output = output_folder(config)
    if dry:
        finished = np.empty(0, np.uint64)
    else:
        claim(output, fingerprint(config, task, data.columns, model_identity(config, phases)), config, fresh)
        finished = finished_keys(output)
    left = pieces(data, finished)
    rows = data.rows - _finished_rows(data, finished)
    return Job(config, data, output, finished, left, _work(phases, data, rows))


def _finished_rows(data: Input, finished: Keys) -> int:
    if not len(finished):
        return 0
    return sum(int(np.isin(row_keys(s.name, 0, s.rows), finished).sum()) for s in data.sources)


def _work(phases: Phases, data: Input, rows: int) -> Work:
    """Costs by rule of thumb: two operations per weight and position, positions by the bytes of a row."""
    weights = sum(parameter.numel() for parameter in phases.pipe.model.parameters())
    bytes_per_row = sum(source.size for source in data.sources) / max(1, data.rows)
    # 16 kB of compressed audio are a second of 50 frames; 4 bytes of compressed text are about 2 tokens.
    positions = bytes_per_row / 16_000 * 50 if phases.task.fans_out else bytes_per_row / 2
    element_size = next(phases.pipe.model.parameters()).element_size()
    return Work(rows, 2.0 * weights * max(1.0, positions), weights * element_size, phases.task.fans_out)
