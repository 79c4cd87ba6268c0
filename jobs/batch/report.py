"""A job's summary as a table for the terminal and as report.html."""

from __future__ import annotations

import html
import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from dray.jobs.outputs.fingerprint import public
from dray.jobs.storage.folder import REPORT, SUMMARY, output_folder
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import InputError

Figures = Mapping[str, object]
Rows = list[tuple[str, str]]


def table(summary: Figures) -> str:
    """The table that is printed at the end of a run."""
    output = summary["output"]
    rows = [*figures(summary), ("output", str(output)), ("report", f"{output}/{REPORT}")]
    return aligned(rows)


def aligned(rows: Rows) -> str:
    """Names and values as two columns for the terminal."""
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def figures(summary: Figures) -> Rows:
    """The most important figures as (name, value) pairs."""
    number = cast("Mapping[str, float]", summary)
    counts = f"{number['rows_ok']:,} ok, {number['rows_failed']:,} failed, {number['rows_skipped']:,} finished earlier"
    rows = [
        ("rows", f"{number['rows_in']:,}: {counts}"),
        ("time", f"{number['seconds']:.1f} s{_startup(number)}"),
    ]
    if number["audio_seconds"]:
        speed = number["audio_seconds"] / number["seconds"]
        rows.append(("audio", f"{number['audio_seconds']:,.0f} s, {speed:.1f} seconds of audio per second"))
    if number["padding_efficiency"] is not None:
        rows.append(("padding", f"{number['padding_efficiency']:.1%} of what the model computed was data"))
    if number.get("waiting_share") is not None:  # it is not in a summary of an earlier version
        rows.append(("waiting", f"{number['waiting_share']:.1%} of the time the workers had the model, it did not run"))
    if number["peak_memory_bytes"] is not None:
        rows.append(("memory", f"{number['peak_memory_bytes'] / (1 << 20):,.0f} MiB in the largest worker"))
    if number["out_of_memory"]:
        lowered = f"batches now hold at most {number['batch_elements']:,} padded elements"
        rows.append(("out of memory", f"{number['out_of_memory']:,} batches did not fit and were halved; {lowered}"))
    if number["workers_died"]:
        rows.append(("workers", f"{number['workers_died']:,} died of a row or were stopped, and were replaced"))
    return rows


def _startup(number: Mapping[str, float]) -> str:
    """The time until the model first ran, and the speed from there; empty if it did not run."""
    start = number["startup_seconds"]
    if start is None or number["seconds"] <= start:
        return ""
    rate = (number["rows_ok"] + number["rows_failed"]) / (number["seconds"] - start)
    return f", {start:.1f} s of them until the model first ran; {rate:.1f} rows/s from there"


def render(summary: Figures, config: JobConfig) -> str:
    """The content of report.html: one page that loads nothing from elsewhere."""
    page = string.Template(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    phases = cast("Mapping[str, float]", summary["seconds_by_phase"])
    longest = max([*phases.values(), 1e-9])
    bars = "".join(
        f"<tr><th>{html.escape(name)}</th><td><meter max='{longest}' value='{value}'></meter> {value:.2f} s</td></tr>"
        for name, value in phases.items()
    )
    return page.substitute(
        title=html.escape(f"{config.task or 'job'} with {config.model_name}"),
        figures="".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in figures(summary)
        ),
        phases=bars,
        config=html.escape(public(config)),
        summary=html.escape(json.dumps(dict(summary), indent=2)),
    )


def write_again(config: JobConfig) -> str:
    """Writes the report of the last run again. Returns its path. Raises InputError where there was no run."""
    folder = output_folder(config)
    summary = folder.read(SUMMARY)
    if summary is None:
        raise InputError(f"output.path: {folder.url} holds no summary; run the job first")
    folder.write(REPORT, render(json.loads(summary), config))
    return f"{folder.url}/{REPORT}"
