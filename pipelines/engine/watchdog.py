"""Watches the work of a process, and ends the process if work hangs or breaks the accelerator.

The owner of the process must start it again, and must not give it the same work in the same way.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from dray.pipelines.errors import RowError

GRACE_S = 5.0  # after the time limit; then work that blocks Python itself is ended too
CHECK_S = 1.0  # between two checks


@dataclass(frozen=True)
class Activity:
    """A piece of work in progress.

    Attributes:
        stage: the phase: "preprocess", "forward" or "postprocess".
        keys: the keys of its rows.
        began: in seconds of the monotonic clock.
        times: its time limit, as a multiple of errors.timeout_s.
    """

    stage: str
    keys: Sequence[int]
    began: float
    times: int


class Watchdog:
    """Knows the work of all threads of a process.

    Attributes:
        timeout_s: the most seconds for a piece of work.
        on_activity: called with each piece of work before it begins.
    """

    def __init__(self, timeout_s: float) -> None:
        self.timeout_s = timeout_s
        self.on_activity: Callable[[Activity], None] | None = None
        self._works: dict[int, Activity] = {}  # by thread
        self._before_end: Callable[[Activity, RowError], None] | None = None

    @contextlib.contextmanager
    def on(self, stage: str, keys: Sequence[int], times: int = 1) -> Iterator[None]:
        """A context in which the caller's thread works on `stage` for the rows with these keys."""
        thread = threading.get_ident()
        self._works[thread] = work = Activity(stage, keys, time.monotonic(), times)
        try:
            if self.on_activity is not None:
                self.on_activity(work)
            yield
        finally:
            del self._works[thread]

    def start(self, last: Callable[[Activity, RowError], None]) -> None:
        """Starts to watch: work that takes too long ends the process, after a call of `last`."""
        self._before_end = last
        threading.Thread(target=self._look, name="watch", daemon=True).start()

    def end_process(self, error: BaseException) -> None:
        """Ends the process, if it is watched, after an error of the calling thread's work that breaks the accelerator."""
        work = self._works.get(threading.get_ident())
        if self._before_end is not None and work is not None:
            self._end(work, RowError.wrap(work.stage, error))

    def _look(self) -> None:
        pause = min(CHECK_S, self.timeout_s / 4)
        while True:
            # This thread cannot run while native code holds Python's global lock; then faulthandler's timer ends the process.
            times = max([work.times for work in list(self._works.values())], default=1)
            faulthandler.dump_traceback_later(times * self.timeout_s + GRACE_S + pause, exit=True, file=2)
            time.sleep(pause)
            now = time.monotonic()
            for work in list(self._works.values()):
                if now - work.began > work.times * self.timeout_s + pause:
                    limit = f"errors.timeout_s = {self.timeout_s:g} s"
                    self._end(work, RowError(work.stage, "TimeoutError", f"{work.stage} took longer than {limit}"))

    def _end(self, work: Activity, error: RowError) -> None:
        """Prints the reason, calls `last` and ends the process, even if `last` raises."""
        print(f"{work.stage} of {len(work.keys)} rows ends this process: {error}", file=sys.stderr, flush=True)
        try:
            if self._before_end is not None:
                self._before_end(work, error)
        finally:
            os._exit(1)
