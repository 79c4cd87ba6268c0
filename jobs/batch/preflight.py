"""All checks that are made before a worker starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from dray.jobs.batch.datasource import Piece, first_rows, pieces
from dray.jobs.batch.resolved import ResolvedJob, resolve
from dray.jobs.batch.rows import items
from dray.jobs.cluster.plan import THREADS, Workload
from dray.jobs.columns import ARGUMENT
from dray.jobs.inputs.dataset import Input
from dray.jobs.inputs.inventory import write_inventory
from dray.jobs.keys import KeySet
from dray.jobs.outputs.fingerprint import claim, fingerprint, refuse_different
from dray.jobs.outputs.finished import FinishedRows, finished_rows
from dray.jobs.outputs.lease import Lease
from dray.jobs.outputs.retry import failed_rows
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import JobConfig
from dray.pipelines.engine.tuning_cache import recall_threads
from dray.pipelines.errors import ConfigError, ModelError, RowError, first_line
from dray.pipelines.internals.linear import speed
from dray.pipelines.media import values
from dray.pipelines.models.loading import load_phases
from dray.pipelines.models.resolved import ResolvedModel

if TYPE_CHECKING:
    from dray.pipelines.phases.item import Item
    from dray.pipelines.phases.phases import Phases


SAMPLE = 16  # rows that are tried before the job starts
MODEL_SHARE = 0.5  # guess: share of this machine's speed at multiplying matrices that models reach on workers
GENERATED_TOKENS = 128  # guess: tokens that a row generates


@dataclass(frozen=True)
class Job:
    """A job that has been checked completely: the model loads, the input exists, the output folder is its own.

    Attributes:
        resolved: the model, task, input and output.
        finished: the keys of the rows that this run must not do.
        left: the pieces of the input that hold other rows.
        earlier: how many rows earlier runs have finished.
        failed_earlier: how many of these have failed.
        work: the amount of work.
        schema: the Arrow type of a prediction.
        is_float32: whether the model's weights would be loaded in float32.
        lease: the lease of the output folder; None for a job that is only checked.
    """

    resolved: ResolvedJob
    finished: KeySet
    left: list[Piece]
    earlier: int
    failed_earlier: int
    work: Workload
    schema: pa.DataType
    is_float32: bool
    lease: Lease | None

    @property
    def config(self) -> JobConfig:
        """The job's config, with all choices made."""
        return self.resolved.config

    @property
    def model(self) -> ResolvedModel:
        """The model and its task."""
        return self.resolved.model

    @property
    def data(self) -> Input:
        """The input."""
        return self.resolved.data

    @property
    def output(self) -> Folder:
        """The output folder."""
        return self.resolved.output

    @property
    def rows_left(self) -> int:
        """How many rows this run has to do."""
        return self.work.rows


def check(
    config: JobConfig,
    fresh: bool = False,
    dry: bool = False,
    again: bool = False,
    on_input: Callable[[], None] | None = None,
) -> Job:
    """Checks everything that can be checked before a worker starts, and claims the output folder.

    Args:
        config: the job.
        fresh: delete the results of earlier runs.
        dry: do not touch the output folder, and count all rows as left.
        again: do only the rows that failed in earlier runs.
        on_input: as for `resolve`.

    Raises:
        UsageError: a check failed; the message says what to do.
    """
    resolved = resolve(config, forget=fresh, again=again, on_input=on_input)
    phases = load_phases(resolved.model, weights=False)
    if dry:
        return _checked(resolved, phases, FinishedRows(), None, is_known=False)
    lease = Lease(resolved.output)
    lease.take()
    try:
        mark, is_known, finished = fingerprint(resolved.model, resolved.data.columns), False, FinishedRows()
        if not fresh:
            is_known = refuse_different(resolved.output, mark)
            finished = finished_rows(config, resolved.output, resolved.data, resolved.known, again)
        job = _checked(resolved, phases, finished, lease, is_known)
        claim(resolved.output, mark, config, fresh)
        write_inventory(resolved.output, resolved.known, resolved.data.sources)
        return dataclasses.replace(job, failed_earlier=failed_rows(resolved.output))
    except BaseException:
        lease.release()
        raise


def _checked(resolved: ResolvedJob, phases: Phases, finished: FinishedRows, lease: Lease | None, is_known: bool) -> Job:
    """The checked job. `is_known`: an earlier run has tried rows, so those that are left may be just the bad ones."""
    data, config = resolved.data, resolved.config
    left = pieces(data, finished.keys)
    sample = first_rows(data, left, SAMPLE)
    if not is_known:
        _try_out(phases, sample)
    schema = phases.schema({name.removeprefix(ARGUMENT): sample[name].type for name in sample.column_names})
    if config.output.subtitles and "chunks" not in str(schema):
        raise ConfigError("output.subtitles: set parameters.return_timestamps, or there is nothing to time them by")
    threads = recall_threads(resolved.model.identity, resolved.task.name) or THREADS
    return Job(
        resolved=resolved,
        finished=finished.keys,
        left=left,
        earlier=finished.earlier,
        failed_earlier=0,
        work=_work(phases, data, sample, data.rows - data.finished_rows(finished.keys), threads),
        schema=schema,
        is_float32=phases.is_float32,
        lease=lease,
    )


def _try_out(phases: Phases, sample: pa.Table) -> None:
    """Preprocesses a few rows. An error in all of them is an error of the config, except for damaged media.

    Raises:
        ModelError: no row can be preprocessed.
    """
    error = None
    rows = [item for item in items(sample, phases) if not isinstance(item, RowError)]
    for item in [_with_stand_ins(phases, item) for item in rows]:
        try:
            phases.check(item)
        except Exception as failure:  # pipelines raise any class about arguments
            error = failure
            continue
        try:
            phases.decode(item)
        except Exception:  # decoders raise any class about a row
            continue
        try:
            for _ in phases.preprocess(item):
                pass
            return
        except Exception as failure:  # tokenizers raise any class, too
            error = failure
    if error is not None:
        raise ModelError(
            f"parameters: {phases.task.name} cannot take any of the first {sample.num_rows} rows: {first_line(error)}"
        )


def _with_stand_ins(phases: Phases, item: Item) -> Item:
    """The item with silence and a blank image in place of its media: real media could crash this process."""
    from PIL import Image

    silence = {"array": np.zeros(phases.media_options.rate, np.float32), "sampling_rate": phases.media_options.rate}
    blank = Image.new("RGB", (64, 64))
    known: dict[object, object] = {
        values.recording: silence,
        values.samples: silence,
        values.image: blank,
        values.images: blank,
    }
    stand_ins = {name: known.get(phases.task.arguments[name], value) for name, value in item.values.items()}
    return dataclasses.replace(item, values=stand_ins)


def _work(phases: Phases, data: Input, sample: pa.Table, rows: int, threads: int) -> Workload:
    """The estimated work, by rule of thumb: two operations per weight and position."""
    weights = sum(parameter.numel() for parameter in phases.pipe.model.parameters())
    element_size = next(phases.pipe.model.parameters()).element_size()
    row_flops = 2.0 * weights * _positions(phases, data, sample)
    row_bytes = sample.nbytes / max(1, sample.num_rows)
    cpu_flops = MODEL_SHARE * speed(phases.pipe.dtype)
    return Workload(rows, row_flops, weights * element_size, phases.task.fans_out, threads, row_bytes, cpu_flops)


def _positions(phases: Phases, data: Input, sample: pa.Table) -> float:
    """Estimated positions (tokens, frames, patches) of an average row, by the bytes of its value or file."""
    argument = next((ARGUMENT + name for name in phases.task.inputs if ARGUMENT + name in sample.column_names), None)
    value_bytes = sample[argument].nbytes / max(1, sample.num_rows) if argument else 0
    if phases.task.modality in ("image", "video"):
        return 256
    if phases.task.modality == "audio":
        # A second of compressed audio is about 16 kB and 50 frames. A path says nothing of the length; assume a minute.
        sizes = [source.size for source in data.sources if source.is_media]
        if sizes:
            value_bytes = sum(sizes) / len(sizes)
        elif argument and pa.types.is_string(sample[argument].type):
            value_bytes = 60 * 16_000
        return max(1.0, 50 * value_bytes / 16_000)
    new_tokens = GENERATED_TOKENS if phases.task.answers_prompts else 0
    limit = getattr(phases.pipe.model.config, "max_position_embeddings", None) or 4096
    return max(1.0, min(value_bytes / 4 + new_tokens, limit))
