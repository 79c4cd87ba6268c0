"""The line that shows how a job goes on."""

from __future__ import annotations

import sys
import time

from dray.jobs.batch.ledger import Count


class ProgressLine:
    """Shows a job's progress: one line that changes on a terminal, one line per interval elsewhere."""

    def __init__(self, total: int, interval_s: float | None = None) -> None:
        """`total` rows are to be done in this run."""
        self._total, self._terminal = total, sys.stdout.isatty()
        self._interval = interval_s if interval_s is not None else (0.5 if self._terminal else 10.0)
        self._started = self._shown = time.monotonic()
        self._first: float | None = None  # when the first rows came, and how many they were
        self._ahead = 0

    def show(self, count: Count) -> None:
        """Prints, if the interval is over."""
        now = time.monotonic()
        if count.done < self._ahead:  # a ledger that was lost begins again
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
        """`done/total rows, rows/s, failed, time left`; rates are counted from the first written rows."""
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
