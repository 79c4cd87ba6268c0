"""Runs parts through the model in packed batches, in one or several model threads; a batch that fails is halved."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from dray.pipelines.batching.packing import bisect, free_cached_memory, is_lasting, is_out_of_memory, pack
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Output, Part
from dray.pipelines.engine.model_threads import ModelThreads
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import RowError
from dray.pipelines.meter import Meter
from dray.pipelines.phases.phases import Phases

DIVISIBLE = 1 / 8  # the largest Limits.overhead with which two halves of a batch in two threads are faster than one


def forward_parts(
    phases: Phases, parts: Sequence[Part], limits: Limits, watchdog: Watchdog, model_threads: ModelThreads | None = None
) -> list[tuple[Output | RowError, Meter]]:
    """(output, meter) of each part, in order; in place of the output, the error that the part raises when it is run alone.

    `model_threads` must have the same phases; without them, the caller's thread runs the model. The seconds of a batch that
    uses all cores count for each of the threads.
    """
    model_threads = model_threads or ModelThreads(phases)
    results: list[tuple[Output | RowError, Meter]] = [(RowError("forward", "RuntimeError", "not run"), Meter()) for _ in parts]

    def run(phases: Phases, share: int, batch: Sequence[int]) -> None:
        began, started = time.time(), time.perf_counter()
        with watchdog.on(
            "forward", [parts[index].key for index in batch], phases.batches_at_once * model_threads.count // share
        ):
            try:
                outputs = phases.forward([parts[index] for index in batch])
            except Exception as error:
                if is_lasting(error):
                    watchdog.end_process(error)
                raise
            finally:
                seconds = share * (time.perf_counter() - started)
                model_threads.ran(seconds)
        longest = max(parts[index].space for index in batch)
        total = sum(parts[index].cost for index in batch) or 1
        for index, output in zip(batch, outputs, strict=True):
            cost = parts[index].cost
            meter = Meter(elements=cost, padded_elements=longest, forward_s=seconds * cost / total, first_forward=began)
            meter.add(results[index][1])
            results[index] = output, meter

    def failed(share: int, index: int, error: Exception) -> None:
        if share < model_threads.count and is_out_of_memory(error):  # batches in other threads may have used the memory
            for_all.append([index])
            return
        results[index] = RowError.wrap("forward", error.with_traceback(None)), results[index][1]

    def out_of_memory(share: int, batch: Sequence[int]) -> None:
        limits.lower(len(batch), max(parts[index].space for index in batch))
        phases.unstage()
        if len(batch) > 1 or share == model_threads.count:  # otherwise it is tried once more
            results[batch[0]][1].add(Meter(out_of_memory=1, batch_elements=limits.elements))
        free_cached_memory()

    def drain(batches: _Batches, share: int, phases: Phases) -> None:
        on_batch = functools.partial(failed, share), functools.partial(out_of_memory, share)
        for batch, following in batches:
            phases.stage([parts[index] for index in following])
            bisect(batch, functools.partial(run, phases, share), *on_batch)

    def fitting(batch: Sequence[int]) -> int:
        return limits.capacity(max(parts[index].space for index in batch))

    packed = pack(parts, limits)
    for_all = [batch for batch in packed if parts[batch[0]].group is Sharing.ALONE]
    for_one = [batch for batch in packed if parts[batch[0]].group is not Sharing.ALONE]
    if limits.overhead <= DIVISIBLE:
        for_one = divided(for_one, parts, model_threads.count)
    even = len(for_one) // model_threads.count * model_threads.count
    for_one, for_all = for_one[:even], for_one[even:] + for_all
    if for_one:
        model_threads.run(functools.partial(drain, _Batches(for_one, fitting), 1))
    if for_all:
        model_threads.wide(functools.partial(drain, _Batches(for_all, fitting), model_threads.count))
    phases.unstage()
    return results


def divided(batches: Sequence[list[int]], parts: Sequence[Part], count: int) -> list[list[int]]:
    """The batches, some of them halved, so that each of `count` threads gets the same number, if there are enough parts.

    The longest parts come first, as in `pack`.
    """
    batches = list(batches)
    while batches and len(batches) % count:
        largest = max(batches, key=lambda batch: (len(batch) > 1, len(batch) * parts[batch[0]].space))
        if len(largest) == 1:
            break
        place, middle = batches.index(largest), len(largest) // 2
        batches[place : place + 1] = largest[:middle], largest[middle:]
    return batches


class _Batches:
    """A queue of batches for several threads. It yields each batch once, together with the batch after it."""

    def __init__(self, batches: Sequence[list[int]], fitting: Callable[[Sequence[int]], int]) -> None:
        """`fitting`: how many parts of a batch fit now, since running out of memory lowers the limits."""
        self._left, self._fitting, self._lock = deque(batches), fitting, threading.Lock()

    def __iter__(self) -> Iterator[tuple[list[int], list[int]]]:
        while True:
            with self._lock:
                if not self._left:
                    return
                batch = self._left.popleft()
                capacity = self._fitting(batch)
                if len(batch) > capacity:
                    self._left.appendleft(batch[capacity:])
                    batch = batch[:capacity]
                following = self._left[0] if self._left else []
            yield batch, following
