"""Several threads that run one model at once, each on its share of the cores.

An operation on two cores ends when the slower one is done, so that each operation ends with a wait; two batches on one core
each need no wait. OpenVINO calls this throughput streams, and PyTorch inter-op parallelism.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dray.pipelines.phases.phases import Phases

T = TypeVar("T")
TOGETHER = 2  # windows of batches that are run at once, so that no thread waits for another at the end of a window
MOST = 4  # threads: each reads all weights, and Python's global lock lets one at a time begin an operation


class ModelThreads:
    """The threads that run the model of some phases.

    Attributes:
        count: the number of threads; 1: the caller's thread, or with `apart` one thread beside it.
        turn: a lock, held by the thread that begins the windows of a block. Meanwhile other threads may postprocess their block
            or preprocess the next.
    """

    def __init__(self, phases: Phases, threads: int = 1, apart: bool = False) -> None:
        """`threads`: threads of torch, shared by the model threads. If the model cannot be shared, one thread has all of them.

        `apart`: this one thread is always the same thread, not the caller's: models/loading.py says why several are slower.
        """
        copies = _copies(phases, _count(threads) - 1) if threads > 1 and phases.is_shareable else []
        self._phases = [phases, *copies]
        self.count, self.turn = len(self._phases), threading.Lock()
        self._counting, self._busy_s = threading.Lock(), 0.0
        self._all, self._each = threads, max(1, threads // self.count)
        self._pool: ThreadPoolExecutor | None = None
        self._callers = ThreadPoolExecutor(1, "model") if apart else None
        if copies:
            import torch

            torch.set_num_threads(self._each)
            self._pool = ThreadPoolExecutor(self.count, "model", self._settle)
            self._callers = ThreadPoolExecutor(TOGETHER, "window")
            self._free, self._own = deque(self._phases), threading.local()
            self._idle, self._at_work = threading.Condition(), 0  # work that has all cores holds the condition's lock
            # Always the same thread, since each thread has its own helpers in torch (models/loading.py).
            self._wide = ThreadPoolExecutor(1, "wide")

    @property
    def at_once(self) -> int:
        """How many calls of `begin` may be unfinished at once; 1: `begin` does the work itself."""
        return 1 if self._callers is None else TOGETHER

    @property
    def busy_s(self) -> float:
        """The seconds that the model has run so far, summed over the threads."""
        return self._busy_s

    def ran(self, seconds: float) -> None:
        """Adds `seconds` in which the model ran, in one thread or summed over all."""
        with self._counting:
            self._busy_s += seconds

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Calls `work`, which uses `run` and `wide`, in a thread. TOGETHER such calls may run at once.

        If the model runs in the caller's thread, the work is done when this returns.
        """
        if self._callers is not None:
            return self._callers.submit(work)
        done: Future[T] = Future()
        done.set_result(work())
        return done

    def run(self, work: Callable[[Phases], None]) -> None:
        """Calls `work` in every model thread, with the thread's own phases, and waits for all. Raises the first error."""
        if self._pool is None:
            work(self._phases[0])
            return
        results = [self._pool.submit(self._in_thread, work) for _ in self._phases]
        wait(results)  # also if one raises
        for result in results:
            result.result()

    def wide(self, work: Callable[[Phases], None]) -> None:
        """Calls `work` with all cores, when no model thread is running, and waits for it."""
        if self._pool is None:
            work(self._phases[0])
        else:
            self._wide.submit(self._alone, work).result()

    def _alone(self, work: Callable[[Phases], None]) -> None:
        import torch

        with self._idle:
            self._idle.wait_for(lambda: not self._at_work)
            torch.set_num_threads(self._all)
            try:
                work(self._phases[0])
            finally:
                torch.set_num_threads(self._each)

    def _settle(self) -> None:
        """Starts a model thread. torch's number of threads must be set in each thread: it keeps the first that it used."""
        import torch

        torch.set_num_threads(self._each)
        self._own.phases = self._free.popleft()

    def _in_thread(self, work: Callable[[Phases], None]) -> None:
        with self._idle:
            self._at_work += 1
        try:
            work(self._own.phases)
        finally:
            with self._idle:
                self._at_work -= 1
                self._idle.notify_all()


def _count(threads: int) -> int:
    """The number of batches at once that uses the most of these threads."""
    possible = range(1, min(threads, MOST) + 1)
    return max(possible, key=lambda count: (threads // count * count, count))


def _copies(phases: Phases, count: int) -> list[Phases]:
    try:
        return [phases.copy_with_shared_weights() for _ in range(count)]
    except Exception:  # modules may hold objects that cannot be copied
        return []
