"""The line that shows a job's progress."""

from __future__ import annotations

import sys
import time

from dray.jobs.batch.ledger import Count


class ProgressLine:
    """Shows a job's progress: one line that changes on a terminal, one line per interval elsewhere."""

    def __init__(self, total: int, interval_s: float | None = None) -> None:
        """`total`: the rows that this run has to do."""
        self._total, self._terminal = total, sys.stdout.isatty()
        self._interval = interval_s if interval_s is not None else (0.5 if self._terminal else 10.0)
        self._started = self._shown = time.monotonic()
        self._first: float | None = None  # time of the first rows
        self._ahead = 0  # how many those were

    def show(self, count: Count) -> None:
        """Prints the line, if the interval is over."""
        now = time.monotonic()
        if count.done < self._ahead:  # a restarted ledger counts from 0
            self._first, self._ahead = None, 0
        if self._first is None and count.done:
            self._first, self._ahead = now, count.done
        if now - self._shown < self._interval:
            return
        self._shown = now
        end = "" if self._terminal else "\n"
        print(("\r\x1b[K" if self._terminal else "") + self.line(count, now), end=end, flush=True)

    def close(self) -> None:
        """Clears the line on a terminal."""
        if self._terminal:
            print("\r\x1b[K", end="", flush=True)

    def line(self, count: Count, now: float) -> str:
        """The line `done/total rows, rows/s, failed, time left`; the rate counts from the first written rows."""
        if self._first is None:
            return f"{count.done}/{self._total} rows, starting ({now - self._started:.0f} s)"
        elapsed = now - self._first
        rate = (count.done - self._ahead) / elapsed if elapsed > 0 else 0.0
        left = f", {_duration((self._total - count.done) / rate)} left" if rate > 0 else ""
        return f"{count.done}/{self._total} rows, {rate:.1f} rows/s, {count.failed} failed{left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
