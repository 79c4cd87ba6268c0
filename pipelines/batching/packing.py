"""Packs parts of different items into batches by length, and finds the part that makes a batch fail."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Sequence

import numpy as np

from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import UNBOUNDED, Limits, Part
from dray.pipelines.errors import FaultError, is_own_fault

FULL = 0.95  # share of data, not padding, in a batch that need not wait for parts of more similar length


def pack(parts: Sequence[Part], limits: Limits) -> list[list[int]]:
    """Batches as lists of positions in `parts`: longest first, each of similar lengths and within `limits`.

    With a budget of elements, the batches are those with the least cost of padding and number of batches together. With a
    fixed number of parts, all but the last are full.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, part in enumerate(parts):
        groups.setdefault(part.group, []).append(index)
    batches = []
    for name, group in groups.items():
        group.sort(key=lambda index: -parts[index].space)
        spaces = [parts[index].space for index in group]
        capacities = [1 if name is Sharing.ALONE else limits.capacity(space) for space in spaces]
        ends = _cheapest(spaces, capacities, limits.overhead) if limits.elements < UNBOUNDED else _full(capacities)
        batches += [group[start:end] for start, end in itertools.pairwise([0, *ends])]
    batches.sort(key=lambda batch: -parts[batch[0]].space)
    return batches


def _full(capacities: Sequence[int]) -> list[int]:
    """The ends of the batches, if each holds as many parts as the capacity of its first part."""
    ends = [0]
    while ends[-1] < len(capacities):
        ends.append(min(len(capacities), ends[-1] + capacities[ends[-1]]))
    return ends[1:]


def _cheapest(spaces: Sequence[int], capacities: Sequence[int], overhead: float) -> list[int]:
    """The ends of the batches with the least total cost, by dynamic programming over the starts of batches.

    Args:
        spaces: elements of the parts, in falling order.
        capacities: how many parts a batch may hold that starts at this part.
        overhead: as in Limits.
    """
    count = len(spaces)
    cost, begin = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
    cost[0] = 0.0
    sizes = np.arange(1, max(capacities) + 1)
    for start, (space, capacity) in enumerate(zip(spaces, capacities, strict=True)):
        last = min(count, start + capacity)
        candidates = cost[start] + space * (overhead * capacity + sizes[: last - start])
        lowest = cost[start + 1 : last + 1]
        better = candidates < lowest
        lowest[better] = candidates[better]
        begin[start + 1 : last + 1][better] = start
    ends = [count]
    while begin[ends[-1]]:
        ends.append(int(begin[ends[-1]]))
    return ends[::-1]


def full_batches(parts: Sequence[Part], limits: Limits) -> set[int]:
    """The positions in `parts` of the parts that fill batches with little padding; at least one batch.

    The others should wait for more parts of similar length.
    """
    batches = pack(parts, limits)

    def efficiency(batch: Sequence[int]) -> float:
        return sum(parts[index].space for index in batch) / max(1, len(batch) * parts[batch[0]].space)

    def is_full(batch: Sequence[int]) -> bool:
        longest = parts[batch[0]]
        return longest.group is Sharing.ALONE or len(batch) >= limits.capacity(longest.space)

    full = [batch for batch in batches if is_full(batch) and efficiency(batch) >= FULL]
    return {index for batch in full or [max(batches, key=efficiency)] for index in batch}


def bisect(
    batch: Sequence[int],
    run: Callable[[Sequence[int]], None],
    failed: Callable[[int, Exception], None],
    out_of_memory: Callable[[Sequence[int]], None],
) -> None:
    """Runs a batch; if that raises, runs its halves, until each part that raises is alone. Calls `failed` with that part.

    Takes at most 2 k log2(n) + 1 runs if k of n parts raise. Calls `out_of_memory` with each batch that did not fit.

    Raises:
        FaultError: dray's own code raised, so that no row is to blame.
    """
    did_not_fit = False
    try:
        run(batch)
        return
    except Exception as error:  # models raise different errors
        did_not_fit = is_out_of_memory(error)
        if not did_not_fit and is_own_fault(error):
            raise FaultError.of(error) from error
        if len(batch) == 1:
            failed(batch[0], error)
    # Outside of `except`: the error's traceback would keep the tensors of the failed run alive.
    if did_not_fit:
        out_of_memory(batch)
    if len(batch) > 1:
        middle = len(batch) // 2
        bisect(batch[:middle], run, failed, out_of_memory)
        bisect(batch[middle:], run, failed, out_of_memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is out of memory, so that a smaller batch may work."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def is_lasting(error: BaseException) -> bool:
    """Whether the error leaves the accelerator unusable for this process, as an assertion in a CUDA kernel does."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def free_cached_memory() -> None:
    """Frees the accelerator memory that torch caches, which may be too fragmented to be used."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
