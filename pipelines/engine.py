"""Runs parts through the model in packed batches, and whole items through all three phases."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipelines.batching import Limits, Output, Part, bisect, divided, free_cached_memory, is_lasting, pack, ripe
from pipelines.errors import RowError
from pipelines.fetch import ahead
from pipelines.lanes import Lanes
from pipelines.meter import Meter
from pipelines.padding import Sharing
from pipelines.phases import Item, Phases
from pipelines.watch import Watch

DIVISIBLE = 1 / 8  # of a batch at most is what it costs however little is in it, where two halves on two lanes pay
FATAL = KeyboardInterrupt, SystemExit, GeneratorExit  # what no row is to blame for
SAMPLE = 256  # parts with which the limits of batches are found
WINDOW = 128  # budgets of parts that are preprocessed, then sorted by length and batched together
FIRST, FASTER = 2, 8  # of them in the first window; times as many in the next, for the model is slower than preprocessing
WINDOW_ELEMENTS = 1 << 25  # and at most so many elements, 128 MiB of float32


@dataclass
class Outcome:
    """One row's result: a prediction, or the error that took its place."""

    prediction: object = None
    error: RowError | None = None
    meter: Meter = field(default_factory=Meter)


@dataclass
class _Pending:
    """An item on its way: outputs by part, until all are there."""

    item: Item
    outcome: Outcome = field(default_factory=Outcome)
    prepared: Meter = field(default_factory=Meter)  # the preprocessing thread's own
    outputs: dict[int, Output] = field(default_factory=dict)
    parts: int | None = None  # None while preprocessing goes on


def preprocess_item(phases: Phases, item: Item, meter: Meter, watch: Watch) -> Iterator[Part]:
    """The parts of one item; time and audio length go to `meter`.

    Raises:
        RowError: preprocessing failed, or has taken longer than the watch allows.
    """
    parts = iter(phases.preprocess(item))
    spent = 0.0
    while True:
        started = time.perf_counter()
        try:
            with watch.on("preprocess", [item.key]):
                part = next(parts, None)
        except FATAL:
            raise
        except BaseException as error:  # decoders and tokenizers raise whatever they like about a row, and Rust's panic
            raise RowError.wrap("preprocess", error) from error
        took = time.perf_counter() - started
        spent += took
        meter.preprocess_s += took
        if part is None:
            return
        if spent > watch.timeout_s:
            limit = f"errors.timeout_s = {watch.timeout_s:g} s"
            raise RowError("preprocess", "TimeoutError", f"preprocessing took longer than {limit}")
        meter.audio_seconds += part.seconds
        yield part


def sample_parts(phases: Phases, items: Sequence[Item], watch: Watch, seconds: float) -> list[Part]:
    """Up to SAMPLE parts of these items, made in about so many seconds; items that cannot be preprocessed give none."""
    parts: list[Part] = []
    deadline = time.monotonic() + seconds
    for item in ahead(items[:SAMPLE], phases.fetched):
        if len(parts) >= SAMPLE or time.monotonic() > deadline:
            break
        with contextlib.suppress(RowError):
            parts += itertools.islice(preprocess_item(phases, item, Meter(), watch), SAMPLE - len(parts))
    return parts


def forward_parts(
    phases: Phases, parts: Sequence[Part], limits: Limits, watch: Watch, lanes: Lanes | None = None
) -> list[tuple[Output | RowError, Meter]]:
    """The output of each part, or the error it raises when it is alone, and what it took. In order.

    `lanes` are of the same phases; without, the caller's thread runs the model.
    """
    lanes = lanes or Lanes(phases)
    results: list[tuple[Output | RowError, Meter]] = [(RowError("forward", "RuntimeError", "not run"), Meter()) for _ in parts]

    def run(phases: Phases, share: int, batch: Sequence[int]) -> None:
        began, started = time.time(), time.perf_counter()
        with watch.on("forward", [parts[index].key for index in batch], phases.batches_at_once):
            try:
                outputs = phases.forward([parts[index] for index in batch])
            except Exception as error:
                if is_lasting(error):
                    watch.ruined(error)
                raise
        seconds = share * (time.perf_counter() - started)
        longest = max(parts[index].space for index in batch)
        total = sum(parts[index].cost for index in batch) or 1
        for index, output in zip(batch, outputs, strict=True):
            cost = parts[index].cost
            meter = Meter(elements=cost, padded_elements=longest, forward_s=seconds * cost / total, first_forward=began)
            meter.add(results[index][1])
            results[index] = output, meter

    def failed(index: int, error: Exception) -> None:
        results[index] = RowError.wrap("forward", error.with_traceback(None)), results[index][1]

    def out_of_memory(batch: Sequence[int]) -> None:
        limits.lower(len(batch), max(parts[index].space for index in batch))
        phases.unstage()
        results[batch[0]][1].add(Meter(out_of_memory=1, batch_elements=limits.elements))
        free_cached_memory()

    def drain(batches: _Batches, share: int, phases: Phases) -> None:
        for batch, following in batches:
            phases.stage([parts[index] for index in following])
            bisect(batch, functools.partial(run, phases, share), failed, out_of_memory)

    def fitting(batch: Sequence[int]) -> int:
        return limits.room(max(parts[index].space for index in batch))

    packed = pack(parts, limits)
    for_all = [batch for batch in packed if parts[batch[0]].group is Sharing.ALONE]
    for_one = [batch for batch in packed if parts[batch[0]].group is not Sharing.ALONE]
    if limits.overhead <= DIVISIBLE:
        for_one = divided(for_one, parts, lanes.count)
    even = len(for_one) // lanes.count * lanes.count
    for_one, for_all = for_one[:even], for_one[even:] + for_all
    if for_one:
        lanes.run(functools.partial(drain, _Batches(for_one, fitting), 1))
    if for_all:
        with lanes.wide() as widely:
            drain(_Batches(for_all, fitting), lanes.count, widely)
    phases.unstage()
    return results


class _Batches:
    """Batches of which each thread takes the next that no other has taken, with a look at the one after it."""

    def __init__(self, batches: Sequence[list[int]], fitting: Callable[[Sequence[int]], int]) -> None:
        """`fitting`: how many parts of a batch fit by now, for limits become lower after it was packed."""
        self._left, self._fitting, self._lock = deque(batches), fitting, threading.Lock()

    def __iter__(self) -> Iterator[tuple[list[int], list[int]]]:
        while True:
            with self._lock:
                if not self._left:
                    return
                batch = self._left.popleft()
                room = self._fitting(batch)
                if len(batch) > room:
                    self._left.appendleft(batch[room:])
                    batch = batch[:room]
                following = self._left[0] if self._left else []
            yield batch, following


def postprocess_item(phases: Phases, outputs: list[Output], item: Item, meter: Meter, watch: Watch) -> object:
    """The prediction. Raises RowError where postprocessing fails."""
    started = time.perf_counter()
    for output in outputs:
        if isinstance(output, dict) and "is_last" in output:
            del output["is_last"]
    try:
        with watch.on("postprocess", [item.key]):
            return phases.postprocess(outputs, item)
    except FATAL:
        raise
    except BaseException as error:  # whatever the pipeline makes of this row's outputs
        raise RowError.wrap("postprocess", error) from error
    finally:
        meter.postprocess_s += time.perf_counter() - started


_Window = list[tuple[int, int, Part]]  # (item, number of the part, part)


def predict(phases: Phases, items: Sequence[Item], limits: Limits, watch: Watch, lanes: Lanes | None = None) -> list[Outcome]:
    """All three phases for a block of items: the next window is preprocessed in a thread while the model runs one.

    Parts that would be padded much wait for more of their length, the last ones until all are there. Memory is bounded by four
    windows of parts (one runs, one waits, one is being made, one is kept for company), however long an item is.

    Returns:
        One outcome per item, in order.
    """
    pending = [_Pending(item) for item in items]
    held: _Window = []
    for window in itertools.chain(_Prefetch(_windows(phases, pending, limits, watch)), [None]):
        held += window or []
        now, held = _ripe(held, limits) if window and sum(part.cost for _, _, part in held) < WINDOW_ELEMENTS else (held, [])
        results = forward_parts(phases, [part for _, _, part in now], limits, watch, lanes)
        for (index, number, _), (output, meter) in zip(now, results, strict=True):
            _keep(pending[index], number, output, meter)
        for index in dict.fromkeys(index for index, _, _ in now):
            _finish(phases, pending[index], watch)
    for state in pending:
        state.outcome.meter.add(state.prepared)
    return [state.outcome for state in pending]


def _ripe(window: _Window, limits: Limits) -> tuple[_Window, _Window]:
    """What is to be run, and what is better kept for the next window."""
    chosen = ripe([part for _, _, part in window], limits)
    return [window[index] for index in sorted(chosen)], [each for index, each in enumerate(window) if index not in chosen]


def _keep(state: _Pending, number: int, output: Output | RowError, meter: Meter) -> None:
    state.outcome.meter.add(meter)
    if isinstance(output, RowError):
        state.outcome.error = state.outcome.error or output
    else:
        state.outputs[number] = output


def _finish(phases: Phases, state: _Pending, watch: Watch) -> None:
    """Postprocesses an item whose parts have all come back."""
    outcome = state.outcome
    if outcome.error is not None or state.parts is None or len(state.outputs) < state.parts:
        return
    outputs = [state.outputs[number] for number in range(state.parts)]
    state.outputs = {}
    try:
        outcome.prediction = postprocess_item(phases, outputs, state.item, outcome.meter, watch)
    except RowError as error:
        outcome.error = error


def _windows(phases: Phases, pending: Sequence[_Pending], limits: Limits, watch: Watch) -> Iterator[_Window]:
    """Parts of successive items, cut into windows of about WINDOW batches.

    The first is small, for nothing runs while it is made. The model takes long enough with it for a larger one to be made.
    """
    window: _Window = []
    elements, size = 0, FIRST
    for index, item in enumerate(ahead([state.item for state in pending], phases.fetched)):
        state, number = pending[index], 0
        try:
            for part in preprocess_item(phases, item, state.prepared, watch):
                is_full = elements > min(size * limits.elements, WINDOW_ELEMENTS) or len(window) >= size * limits.parts
                if window and is_full:
                    yield window
                    window, elements, size = [], 0, min(FASTER * size, WINDOW)
                window.append((index, number, part))
                elements += part.cost
                number += 1
        except RowError as error:
            state.outcome.error = error
        state.parts = number
        if number == 0 and state.outcome.error is None:
            state.outcome.error = RowError("preprocess", "ValueError", "the item gave the model no input")
    if window:
        yield window


class _Prefetch:
    """Iterates in a thread, one item ahead. An exception in the thread is raised where the items are taken."""

    def __init__(self, items: Iterator[_Window]) -> None:
        self._queue: queue.Queue[_Window | BaseException | None] = queue.Queue(maxsize=1)
        self._thread = threading.Thread(target=self._fill, args=(items,), daemon=True)

    def _fill(self, items: Iterator[_Window]) -> None:
        try:
            for item in items:
                self._queue.put(item)
            self._queue.put(None)
        except BaseException as error:  # carried to the consuming thread
            self._queue.put(error)

    def __iter__(self) -> Iterator[_Window]:
        self._thread.start()
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
