"""Joins the segments of long items."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import pyarrow as pa

from dray.jobs.columns import KEY
from dray.pipelines.meter import Meter
from dray.pipelines.tasks.arrow import decode, encode

RECALLED = 1000  # joined long items that Gather still remembers

Row = dict[str, object]


class Gather:
    """Joins the segments of long items. Rows with one segment pass; the outputs of others wait until all segments are there.

    One actor sees all rows. A task that Ray repeats returns the same rows: the segment that completed an item completes it
    again, as long as the item is among the last RECALLED; other segments change nothing.
    """

    def __init__(self) -> None:
        self._waiting: dict[int, dict[int, Row]] = {}
        self._settled: OrderedDict[int, tuple[int, Row]] = OrderedDict()  # key -> completing segment, joined row

    def __call__(self, table: pa.Table) -> pa.Table:
        """Rows with `outputs` of one segment -> rows with `outputs` of whole items, which are fewer."""
        whole = [row for row in map(self._take, table.to_pylist()) if row is not None]
        return pa.Table.from_pylist(whole, schema=table.schema)

    def _take(self, row: Row) -> Row | None:
        key: int = row[KEY]  # type: ignore[assignment]
        if row["segment"] == 0 and row["segments"] == 1:
            return row
        number: int = row["segment"]  # type: ignore[assignment]
        if key in self._settled:
            completing, joined = self._settled[key]
            return joined if number == completing else None
        segments = self._waiting.setdefault(key, {})
        segments[number] = row
        count = max(segment["segments"] for segment in segments.values())  # type: ignore[type-var]
        if row["error"] is None and len(segments) != count:
            return None
        del self._waiting[key]
        ordered = [segments[index] for index in sorted(segments)]
        joined = {**row, "meter": _figures(ordered)} if row["error"] is not None else _joined(ordered)
        self._settled[key] = number, joined
        if len(self._settled) > RECALLED:
            self._settled.popitem(last=False)
        return joined


def _joined(segments: Sequence[Row]) -> Row:
    outputs = [output for row in segments for output in decode(row["outputs"])]  # type: ignore[arg-type,attr-defined]
    return {**segments[0], "segments": 1, "outputs": encode(outputs), "meter": _figures(segments)}


def _figures(segments: Sequence[Row]) -> dict[str, float]:
    """The meters of the segments, added up."""
    meter = Meter()
    for row in segments:
        meter.add(Meter(**row["meter"]))  # type: ignore[arg-type]
    return meter.values()
