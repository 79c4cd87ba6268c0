"""The figures of a finished run, as summary.json holds them."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dray.jobs.batch.datasink import WriteTotals
from dray.jobs.batch.preflight import Job
from dray.jobs.cluster.plan import Plan
from dray.jobs.versions import versions


@dataclass(frozen=True)
class Summary(Mapping[str, object]):
    """The figures of a run, as attributes and as a mapping; None where nothing was measured.

    Attributes:
        output: the output folder, as the config names it.
        rows_in: rows of the input.
        rows_ok: rows that succeeded in this run.
        rows_failed: rows that failed in this run.
        rows_skipped: rows that earlier runs have finished.
        seconds: time from the command to the end.
        startup_seconds: time from the command until the model first ran.
        rows_per_second: rows of this run over `seconds`.
        audio_seconds: total length of the recordings in this run.
        padding_efficiency: share of what the model computed that was data and not padding, 0 to 1.
        waiting_share: share of the time the workers had the model in which it did not run, 0 to 1.
        seconds_by_phase: summed over all workers: read, preprocess, forward, postprocess, write, waiting.
        peak_memory_bytes: peak memory of the largest worker.
        out_of_memory: batches that did not fit into memory.
        batch_elements: most padded elements of a batch since then.
        workers_died: workers that died of a row, or were stopped.
        plan: how the cluster was used.
        dtype: precision of the model; "auto": as it was saved.
        versions: versions of python, dray, ray, torch, transformers and pyarrow.
    """

    output: str
    rows_in: int
    rows_ok: int
    rows_failed: int
    rows_skipped: int
    seconds: float
    startup_seconds: float | None
    rows_per_second: float
    audio_seconds: float
    padding_efficiency: float | None
    waiting_share: float | None
    seconds_by_phase: dict[str, float]
    peak_memory_bytes: int | None
    out_of_memory: int
    batch_elements: int | None
    workers_died: int
    plan: dict[str, object] | None
    dtype: str
    versions: dict[str, str]

    def __getitem__(self, name: str) -> object:
        """A figure by its name."""
        if name in self._names():
            return getattr(self, name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        """The names of all figures."""
        return iter(self._names())

    def __len__(self) -> int:
        """The number of figures."""
        return len(self._names())

    @classmethod
    def _names(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)]


def summarize(job: Job, plan: Plan | None, written: WriteTotals, started: float) -> Summary:
    """The summary of a job that ends now. `started`: seconds since the epoch.

    Figures are None where the model did not run, and where the job was stopped and the workers' figures are lost.
    """
    seconds = time.time() - started
    meter = written.meter
    phases = {
        "read": meter.read_s,
        "preprocess": meter.preprocess_s,
        "forward": meter.forward_s,
        "postprocess": meter.postprocess_s,
        "write": written.write_s,
        "waiting": meter.waiting_s,
    }
    return Summary(
        output=job.output.url,
        rows_in=job.data.rows,
        rows_ok=written.ok,
        rows_failed=written.failed,
        rows_skipped=job.earlier,
        seconds=round(seconds, 3),
        startup_seconds=round(meter.first_forward - started, 3) if math.isfinite(meter.first_forward) else None,
        rows_per_second=round((written.ok + written.failed) / seconds, 3),
        audio_seconds=round(meter.audio_seconds, 3),
        padding_efficiency=_share(meter.elements, meter.padded_elements),
        waiting_share=_share(meter.waiting_s, meter.waiting_s + meter.forward_s),
        seconds_by_phase={name: round(value, 3) for name, value in phases.items()},
        peak_memory_bytes=int(meter.peak_bytes) or None,
        out_of_memory=int(meter.out_of_memory),
        batch_elements=int(meter.batch_elements) if math.isfinite(meter.batch_elements) else None,
        workers_died=written.deaths,
        plan=dataclasses.asdict(plan) if plan else None,
        dtype=job.config.engine.dtype,
        versions=versions(),
    )


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None
