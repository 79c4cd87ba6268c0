"""The figures of a finished run, as summary.json holds them."""

from __future__ import annotations

import dataclasses
import math
import platform
import time
from importlib.metadata import version

from dray.jobs.batch.datasink import WriteTotals
from dray.jobs.batch.preflight import Job
from dray.jobs.cluster.plan import Plan


def summarize(job: Job, plan: Plan | None, written: WriteTotals, started: float) -> dict[str, object]:
    """The content of summary.json of a job that was `started` so many seconds after the epoch and ends now.

    What was not measured is None: where the model did not run, and where the job was stopped and the workers' figures are lost.
    """
    seconds = time.time() - started
    meter = written.meter
    rows = written.ok + written.failed
    phases = {
        "read": meter.read_s,
        "preprocess": meter.preprocess_s,
        "forward": meter.forward_s,
        "postprocess": meter.postprocess_s,
        "write": written.write_s,
        "waiting": meter.waiting_s,
    }
    return {
        "rows_in": job.data.rows,
        "rows_ok": written.ok,
        "rows_failed": written.failed,
        "rows_skipped": job.earlier,
        "seconds": round(seconds, 3),
        "startup_seconds": round(meter.first_forward - started, 3) if math.isfinite(meter.first_forward) else None,
        "rows_per_second": round(rows / seconds, 3),
        "audio_seconds": round(meter.audio_seconds, 3),
        "padding_efficiency": _share(meter.elements, meter.padded_elements),
        "waiting_share": _share(meter.waiting_s, meter.waiting_s + meter.forward_s),
        "seconds_by_phase": {name: round(value, 3) for name, value in phases.items()},
        "peak_memory_bytes": int(meter.peak_bytes) or None,
        "out_of_memory": int(meter.out_of_memory),
        "batch_elements": int(meter.batch_elements) if math.isfinite(meter.batch_elements) else None,
        "workers_died": written.deaths,
        "plan": dataclasses.asdict(plan) if plan else None,
        "dtype": job.config.engine.dtype,
        "versions": _versions(),
    }


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole else None


def _versions() -> dict[str, str]:
    packages = ("dray", "ray", "torch", "transformers", "pyarrow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
