"""Several threads that run one model at once, each on its share of the cores.

An operation that is cut over two cores ends with the slower one, and each ends with a wait; two batches of one core each wait
for nothing. OpenVINO calls it throughput streams, and PyTorch inter-op parallelism.
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
TOGETHER = 2  # windows of batches that are run at once, so that no lane waits for the end of another
MOST = 4  # each reads all weights for itself, and Python's own lock lets one at a time begin an operation


class ModelThreads:
    """The threads that run the model of some phases.

    Attributes:
        count: how many there are; 1: the caller's own.
        turn: held by whoever begins work, block by block: what is made of one block's outputs, and the next one's first parts,
            are made while the model runs.
    """

    def __init__(self, phases: Phases, threads: int = 1, apart: bool = False) -> None:
        """`threads` of torch are for all of them together. Where the model cannot be shared, there is one with all of these.

        With `apart` that one is not the caller's thread but always the same, for models/loading.py says what several cost.
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
            self._pool = ThreadPoolExecutor(self.count, "lane", self._settle)
            self._callers = ThreadPoolExecutor(TOGETHER, "window")
            self._free, self._own = deque(self._phases), threading.local()
            self._turn, self._at_work = threading.Condition(), 0  # whoever has all the cores keeps the condition's lock
            # Always the same thread, for each that shares work out has helpers of its own: models/loading.py says why not.
            self._wide = ThreadPoolExecutor(1, "wide")

    @property
    def at_once(self) -> int:
        """How many pieces of work may be begun before the first has ended; 1: `begin` does it itself."""
        return 1 if self._callers is None else TOGETHER

    @property
    def busy_s(self) -> float:
        """Seconds that the model has run by now, summed over the lanes."""
        return self._busy_s

    def ran(self, seconds: float) -> None:
        """The model has run for so long: of one lane, or of all of them together."""
        with self._counting:
            self._busy_s += seconds

    def begin(self, work: Callable[[], T]) -> Future[T]:
        """Calls `work`, which uses `run` and `wide`, in a thread; of TOGETHER at once the later has what the earlier leaves.

        With one lane that is the caller's it is done when this returns.
        """
        if self._callers is not None:
            return self._callers.submit(work)
        done: Future[T] = Future()
        done.set_result(work())
        return done

    def run(self, work: Callable[[Phases], None]) -> None:
        """Calls `work` in every lane, with phases of the lane's own, and returns when all are done. Raises what one raises."""
        if self._pool is None:
            work(self._phases[0])
            return
        model_threads = [self._pool.submit(self._in_lane, work) for _ in self._phases]
        wait(model_threads)  # also where one raises
        for lane in model_threads:
            lane.result()

    def wide(self, work: Callable[[Phases], None]) -> None:
        """Calls `work` where it has all the cores, once the lanes have none, and returns when it is done."""
        if self._pool is None:
            work(self._phases[0])
        else:
            self._wide.submit(self._alone, work).result()

    def _alone(self, work: Callable[[Phases], None]) -> None:
        import torch

        with self._turn:
            self._turn.wait_for(lambda: not self._at_work)
            torch.set_num_threads(self._all)
            try:
                work(self._phases[0])
            finally:
                torch.set_num_threads(self._each)

    def _settle(self) -> None:
        """A lane begins. What a thread has once called torch with, it keeps, whatever others set."""
        import torch

        torch.set_num_threads(self._each)
        self._own.phases = self._free.popleft()

    def _in_lane(self, work: Callable[[Phases], None]) -> None:
        with self._turn:
            self._at_work += 1
        try:
            work(self._own.phases)
        finally:
            with self._turn:
                self._at_work -= 1
                self._turn.notify_all()


def _count(threads: int) -> int:
    """How many batches at once use the most of these threads."""
    possible = range(1, min(threads, MOST) + 1)
    return max(possible, key=lambda count: (threads // count * count, count))


def _copies(phases: Phases, count: int) -> list[Phases]:
    try:
        return [phases.copy_with_shared_weights() for _ in range(count)]
    except Exception:  # modules may hold whatever cannot be copied
        return []
