"""Finds how many padded elements a batch should hold: the knee of throughput in trials with parts of the data."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dray.pipelines.batching.packing import free_cached_memory, is_out_of_memory
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Part

ENOUGH = 0.96  # of the best throughput: the smallest batch that reaches it is chosen
PATIENCE = 2  # doublings without a gain after which the trials stop
LEAST_SHARE = 0.05  # of all elements; a bucket with fewer is joined to that of the next longer parts
MOST_PARTS = 1024  # in a batch


@dataclass(frozen=True)
class Trial:
    """A batch that was tried: parts, padded elements, real elements per second, and seconds (both 0 if it did not fit)."""

    parts: int
    elements: int
    rate: float
    seconds: float


@dataclass(frozen=True)
class Bucket:
    """Parts of similar lengths.

    Attributes:
        longest: elements of its longest part.
        elements: padded elements that a batch of these parts should hold.
        trials: the trials, in order.
    """

    longest: int
    elements: int
    trials: tuple[Trial, ...] = ()


def knee(trials: Sequence[Trial]) -> Trial:
    """The trial of the smallest batch with nearly the best throughput. At least one trial must have fitted."""
    best = max(trial.rate for trial in trials)
    return min((trial for trial in trials if trial.rate >= ENOUGH * best), key=lambda trial: trial.elements)


def overhead(trials: Sequence[Trial]) -> float | None:
    """The fixed cost of a batch as a share of the cost of the elements of the best batch, 0 to 1; None after one trial.

    It assumes seconds = constant + factor * elements.
    """
    first, best = trials[0], knee(trials)
    if best.elements <= first.elements or not first.seconds:
        return None
    elements, seconds = first.elements / best.elements, first.seconds / best.seconds
    return min(1.0, max(0.0, (seconds - elements) / (1 - min(seconds, 0.99))))


def tune(parts: Sequence[Part], run: Callable[[list[Part]], float], seconds: float) -> list[Bucket]:
    """Tries batches of growing size, the longest parts first, and returns the best sizes.

    Args:
        parts: of the data; the largest group is tried, apart from parts that share no batch.
        run: runs the model on a batch and returns the seconds it took; raises if the batch does not fit.
        seconds: after this time no further batch is tried; lengths that are not done get no bucket.

    Returns:
        Buckets in the order of falling length; none if no parts share a batch.

    Raises:
        Exception: an error of `run`, other than out of memory.
    """
    deadline = time.monotonic() + seconds
    groups = Counter(part.group for part in parts if part.group is not Sharing.ALONE)
    if not groups:
        return []
    ((group, _),) = groups.most_common(1)
    buckets: list[Bucket] = []
    capacity = 1 << 62  # elements; a batch that did not fit is not tried again with shorter parts
    for bucket in by_length([part for part in parts if part.group == group]):
        trials, capacity = _tried(bucket, run, capacity, deadline)
        if time.monotonic() > deadline:  # larger batches might have been better
            break
        if any(trial.rate for trial in trials):
            buckets.append(Bucket(bucket[0].cost, knee(trials).elements, tuple(trials)))
    return buckets


def by_length(parts: Sequence[Part]) -> list[list[Part]]:
    """The parts in buckets of falling length. A new bucket starts where the length has halved, if the last one is not small."""
    least = LEAST_SHARE * sum(part.cost for part in parts)
    buckets: list[list[Part]] = []
    held = 0
    for part in sorted(parts, key=lambda part: -part.cost):
        if not buckets or (held >= least and 2 * part.cost <= buckets[-1][0].cost):
            buckets.append([])
            held = 0
        buckets[-1].append(part)
        held += part.cost
    if len(buckets) > 1 and held < least:
        rest = buckets.pop()
        buckets[-1] += rest
    return buckets


def limits(buckets: Sequence[Bucket], otherwise: Limits) -> Limits:
    """The batch limits from these buckets; `otherwise` if there are none."""
    if not buckets:
        return otherwise
    largest = max(bucket.elements for bucket in buckets)
    overheads = [share for bucket in buckets if bucket.trials and (share := overhead(bucket.trials)) is not None]
    by_length = tuple((bucket.longest, bucket.elements) for bucket in reversed(buckets))
    return Limits(otherwise.parts, largest, by_length, max(overheads, default=otherwise.overhead))


def _tried(
    bucket: Sequence[Part], run: Callable[[list[Part]], float], capacity: int, deadline: float
) -> tuple[list[Trial], int]:
    """(trials, new capacity): batches of 1, 2, 4 ... parts, until there is no gain, one does not fit, or time is up.

    Each batch is run twice, and the faster run counts. `capacity` is in elements.
    """
    trials: list[Trial] = []
    size, idle, best = 1, 0, 0.0
    while size <= MOST_PARTS and idle < PATIENCE and size * bucket[0].cost < capacity and time.monotonic() < deadline:
        batch = list(itertools.islice(itertools.cycle(bucket), size))
        elements = size * bucket[0].cost
        try:
            took = run(batch)
            if time.monotonic() < deadline:
                took = min(took, run(batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            trials.append(Trial(size, elements, 0.0, 0.0))
            capacity = elements
            break
        took = max(took, 1e-9)
        rate = sum(part.cost for part in batch) / took
        trials.append(Trial(size, elements, rate, took))
        idle = 0 if rate > best / ENOUGH else idle + 1
        best, size = max(best, rate), 2 * size
    if capacity < 1 << 62:
        free_cached_memory()
    return trials, capacity
