"""Whose turn it is: which of the parts of many requests that wait the model takes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import UNBOUNDED, Limits, Part

# The longest part of a batch may be so many times as long as the shortest, or longer where that pads less than a batch costs.
SIMILAR = 1.5
LET_IN_S = 0.3  # a batch that is not full waits for another that takes less, if its like ran last: more will share it then
PATIENCE = 50  # times the model's seconds for a request are added to its arrival: what takes less comes first for so long
FORGOTTEN = 0.05  # of what is known of the model's speed, with every batch

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class WaitingPart(Generic[R]):
    """A part that is ready to run, of a request. The smaller `deadline`, the sooner."""

    deadline: float
    since: float
    request: R
    number: int
    part: Part


class Scheduler(Generic[R]):
    """The parts that wait. A part is due when its request came, and later the longer the model works on the request with it.

    Not safe for threads: the caller sees to that.
    """

    def __init__(self, limits: Limits) -> None:
        """`limits`: of a batch."""
        self.limits = limits
        self.waiting: list[WaitingPart[R]] = []
        self._last = 0  # elements of the longest part in the last batch
        self._lets_in = False  # whether that was let in between
        self._ran_s = self._ran_space = 0.0  # of the last batches: the model's seconds, and elements with padding

    def add(self, request: R, arrived: float, number: int, part: Part, space: int) -> None:
        """A part begins to wait.

        Args:
            request: it is a part of.
            arrived: when the request did, in seconds of the monotonic clock.
            number: of the part among those of the request, from 0.
            part: itself.
            space: elements of the request's parts so far, with padding, this one's included.
        """
        self.waiting.append(WaitingPart(arrived + PATIENCE * self._pace * space, time.monotonic(), request, number, part))

    def remove(self, unwanted: Callable[[R], bool]) -> list[WaitingPart[R]]:
        """Takes out the parts of requests that nobody wants answered any more."""
        gone = [each for each in self.waiting if unwanted(each.request)]
        self._take_out(gone)
        return gone

    def take(self) -> list[WaitingPart[R]]:
        """Takes out the next batch; an empty one where nothing waits."""
        batch = self._chosen() if self.waiting else []
        self._take_out(batch)
        return batch

    def patience(self, wait_s: float) -> float:
        """Seconds for which company may be waited for: `wait_s` from the oldest on; none where those here fill a batch."""
        is_full = sum(each.part.space for each in self.waiting) >= self.limits.elements
        if is_full or len(self.waiting) >= self.limits.parts:
            return 0.0
        return min(each.since for each in self.waiting) + wait_s - time.monotonic() if self.waiting else 0.0

    def ran(self, seconds: float, space: int) -> None:
        """The model took so long for a batch of so many elements, padding included."""
        self._ran_s, self._ran_space = (1 - FORGOTTEN) * self._ran_s + seconds, (1 - FORGOTTEN) * self._ran_space + space

    @property
    def _pace(self) -> float:
        """The model's seconds for an element; 0 until it has run."""
        return self._ran_s / self._ran_space if self._ran_space else 0.0

    def _take_out(self, batch: Sequence[WaitingPart[R]]) -> None:
        taken = set(map(id, batch))
        self.waiting = [each for each in self.waiting if id(each) not in taken]

    def _chosen(self) -> list[WaitingPart[R]]:
        """What is due first with its like; or, in between two batches of the like that are not full, what else is due."""
        batch = choose(self.waiting, self.limits)
        longest = max(each.part.space for each in batch)
        last, self._last = self._last, longest
        is_full = batch[0].part.group is Sharing.ALONE or len(batch) >= self.limits.capacity(longest)
        was_let_in, self._lets_in = self._lets_in, False  # never twice in a row: what is due must not starve
        if is_full or was_let_in or not last / SIMILAR <= longest <= last * SIMILAR:
            return batch
        first = set(map(id, batch))
        # Of a long item, the rest can wait.
        rest = [each for each in self.waiting if id(each) not in first and each.number == 0]
        other = choose(rest, self.limits) if rest else []
        if not other or self._pace * len(other) * max(each.part.space for each in other) > LET_IN_S:
            return batch
        self._last, self._lets_in = max(each.part.space for each in other), True
        return other


def choose(waiting: Sequence[WaitingPart[R]], limits: Limits) -> list[WaitingPart[R]]:
    """The part that is due first, and of those that may share its batch the ones nearest to it in length."""
    first = min(waiting, key=lambda each: each.deadline)
    if first.part.group is Sharing.ALONE:
        return [first]
    mates = sorted((each for each in waiting if each.part.group == first.part.group), key=lambda each: each.part.space)
    slack = limits.overhead * limits.elements if limits.elements < UNBOUNDED else 0.0
    low = high = next(place for place, each in enumerate(mates) if each is first)
    while True:
        shorter = mates[low - 1].part.space if low > 0 else None
        longer = mates[high + 1].part.space if high + 1 < len(mates) else None
        least, most = mates[low].part.space, mates[high].part.space
        count = high - low + 2
        may_shrink = (
            shorter is not None
            and (most <= SIMILAR * shorter or most - shorter <= slack)
            and limits.capacity(most) >= count
        )  # fmt: skip
        may_grow = (
            longer is not None
            and (longer <= SIMILAR * least or (longer - most) * (count - 1) <= slack)
            and limits.capacity(longer) >= count
        )  # fmt: skip
        if may_shrink and (not may_grow or first.part.space - shorter <= longer - first.part.space):  # type: ignore[operator]
            low -= 1
        elif may_grow:
            high += 1
        else:
            return mates[low : high + 1]
