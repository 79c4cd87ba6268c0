"""Decides which of the waiting parts of many requests the model takes next."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import UNBOUNDED, Limits, Part

# The longest part of a batch may be this many times as long as the shortest; longer if the padding costs less than a batch.
SIMILAR = 1.5
# If parts of similar length ran last, a batch that is not full waits for another that takes less than this: it may get fuller.
LET_IN_S = 0.3
FAIRNESS = 50  # deadline = arrival + this many times the model's seconds for the request, so that short requests come first
FORGOTTEN = 0.05  # the share by which each batch lowers the weight of earlier batches in the model's speed

R = TypeVar("R")


@dataclass(frozen=True, eq=False)
class WaitingPart(Generic[R]):
    """A part of a request that is ready to run. Parts with earlier deadlines run first."""

    deadline: float
    since: float
    request: R
    number: int
    part: Part


class Scheduler(Generic[R]):
    """The waiting parts. The deadline of a part is the arrival of its request, plus PATIENCE times the model's time for it.

    Not thread-safe: the caller must hold a lock.
    """

    def __init__(self, limits: Limits) -> None:
        """`limits`: the limits of a batch."""
        self.limits = limits
        self.waiting: list[WaitingPart[R]] = []
        self._last = 0  # elements of the longest part in the last batch
        self._lets_in = False  # whether the last batch ran before one with an earlier deadline
        self._ran_s = self._ran_space = 0.0  # of the last batches: the model's seconds, and elements with padding

    def add(self, request: R, arrived: float, number: int, part: Part, space: int) -> None:
        """Adds a part to the waiting parts.

        Args:
            request: its request.
            arrived: arrival of the request, in seconds of the monotonic clock.
            number: of the part among those of the request, from 0.
            part: the part.
            space: padded elements of the request's parts so far, with this one.
        """
        self.waiting.append(WaitingPart(arrived + FAIRNESS * self._pace * space, time.monotonic(), request, number, part))

    def remove(self, unwanted: Callable[[R], bool]) -> list[WaitingPart[R]]:
        """Removes and returns the waiting parts of the `unwanted` requests."""
        removed = [each for each in self.waiting if unwanted(each.request)]
        self._take_out(removed)
        return removed

    def take(self) -> list[WaitingPart[R]]:
        """Removes and returns the next batch; it is empty if no part waits."""
        batch = self._chosen() if self.waiting else []
        self._take_out(batch)
        return batch

    def patience(self, wait_s: float) -> float:
        """Seconds to wait for further parts: until `wait_s` after the oldest part arrived; 0 if the parts fill a batch."""
        is_full = sum(each.part.space for each in self.waiting) >= self.limits.elements
        if is_full or len(self.waiting) >= self.limits.parts:
            return 0.0
        return min(each.since for each in self.waiting) + wait_s - time.monotonic() if self.waiting else 0.0

    def ran(self, seconds: float, space: int) -> None:
        """Records that the model took `seconds` for a batch of `space` padded elements."""
        self._ran_s, self._ran_space = (1 - FORGOTTEN) * self._ran_s + seconds, (1 - FORGOTTEN) * self._ran_space + space

    @property
    def _pace(self) -> float:
        """The model's seconds for one element; 0 before it has run."""
        return self._ran_s / self._ran_space if self._ran_space else 0.0

    def _take_out(self, batch: Sequence[WaitingPart[R]]) -> None:
        taken = set(map(id, batch))
        self.waiting = [each for each in self.waiting if id(each) not in taken]

    def _chosen(self) -> list[WaitingPart[R]]:
        """The batch of the part with the earliest deadline; or a short one, if that batch is not full and like the last one."""
        batch = choose(self.waiting, self.limits)
        longest = max(each.part.space for each in batch)
        last, self._last = self._last, longest
        is_full = batch[0].part.group is Sharing.ALONE or len(batch) >= self.limits.capacity(longest)
        was_let_in, self._lets_in = self._lets_in, False  # never twice in a row, so that no part starves
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
    """The part with the earliest deadline, and the parts of its group that are nearest to it in length."""
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
