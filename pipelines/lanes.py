"""Several threads that run one model at once, each on its share of the cores.

An operation that is cut over two cores ends with the slower one, and each ends with a wait; two batches of one core each wait
for nothing. OpenVINO calls it throughput streams, and PyTorch inter-op parallelism.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from pipelines.phases import Phases

MOST = 4  # each reads all weights for itself, and Python's own lock lets one at a time begin an operation


class Lanes:
    """The threads that run the model of some phases.

    Attributes:
        count: how many there are; 1: the caller's own.
    """

    def __init__(self, phases: Phases, threads: int = 1) -> None:
        """`threads` of torch are for all of them together. Where the model cannot be shared, there is one with all of these."""
        twins = _twins(phases, min(threads, MOST) - 1) if threads > 1 and phases.is_shareable else []
        self._phases = [phases, *twins]
        self.count = len(self._phases)
        self._all, self._each = threads, max(1, threads // self.count)
        self._pool: ThreadPoolExecutor | None = None
        if twins:
            import torch

            torch.set_num_threads(self._each)
            # What a thread has once called torch with, it keeps, whatever others set.
            self._pool = ThreadPoolExecutor(self.count, "lane", torch.set_num_threads, (self._each,))

    def run(self, work: Callable[[Phases], None]) -> None:
        """Calls `work` in every lane, with phases of the lane's own, and returns when all are done. Raises what one raises."""
        if self._pool is None:
            work(self._phases[0])
            return
        for done in [self._pool.submit(work, phases) for phases in self._phases]:
            done.result()

    @contextlib.contextmanager
    def wide(self) -> Iterator[Phases]:
        """Within, the caller's thread has all the cores for one batch. No other is to run meanwhile."""
        if self._pool is None:
            yield self._phases[0]
            return
        import torch

        torch.set_num_threads(self._all)
        try:
            yield self._phases[0]
        finally:
            torch.set_num_threads(self._each)


def _twins(phases: Phases, count: int) -> list[Phases]:
    try:
        return [phases.twin() for _ in range(count)]
    except Exception:  # modules may hold whatever cannot be copied
        return []


def with_shared_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A model of modules, buffers and settings of its own, but with the parameters of `model`: it takes little memory.

    Raises:
        Exception: a module holds something that cannot be copied.
    """
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})
