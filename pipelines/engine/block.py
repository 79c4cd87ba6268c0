"""Runs items through all three phases; the next window of parts is preprocessed while the model runs one."""

from __future__ import annotations

import contextlib
import functools
import itertools
import queue
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field

from dray.pipelines.batching.packing import full_batches
from dray.pipelines.batching.parts import Limits, Output, Part
from dray.pipelines.engine.forward import forward_parts
from dray.pipelines.engine.model_threads import ModelThreads
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import RowError
from dray.pipelines.media.fetch import ahead
from dray.pipelines.meter import Meter
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import Phases

FATAL = KeyboardInterrupt, SystemExit, GeneratorExit  # errors that no row causes
SAMPLE = 256  # parts with which batch sizes are tuned
WINDOW = 128  # batches' worth of parts in a window: these are preprocessed, then sorted by length and batched together
FIRST, FASTER = 2, 8  # size of the first window; factor for the next ones, since the model is slower than preprocessing
WINDOW_ELEMENTS = 1 << 25  # the most elements of a window, 128 MiB of float32


@dataclass
class Outcome:
    """The result of one row: a prediction, or an error."""

    prediction: object = None
    error: RowError | None = None
    meter: Meter = field(default_factory=Meter)


@dataclass
class _Pending:
    """An item that is not finished: the outputs of its parts so far."""

    item: Item
    outcome: Outcome = field(default_factory=Outcome)
    prepared: Meter = field(default_factory=Meter)  # the preprocessing thread's own
    outputs: dict[int, Output] = field(default_factory=dict)
    parts: int | None = None  # None until preprocessing is done


def preprocess_item(phases: Phases, item: Item, meter: Meter, watchdog: Watchdog) -> Iterator[Part]:
    """Yields the parts of one item; adds the time and the length of audio to `meter`.

    Raises:
        RowError: preprocessing failed, or took longer than the watchdog allows.
    """
    parts = iter(phases.preprocess(item))
    spent = 0.0
    while True:
        started = time.perf_counter()
        try:
            with watchdog.on("preprocess", [item.key]):
                part = next(parts, None)
        except FATAL:
            raise
        except BaseException as error:  # decoders and tokenizers raise different errors, and Rust's panic
            raise RowError.wrap("preprocess", error) from error
        took = time.perf_counter() - started
        spent += took
        meter.preprocess_s += took
        if part is None:
            return
        if spent > watchdog.timeout_s:
            limit = f"errors.timeout_s = {watchdog.timeout_s:g} s"
            raise RowError("preprocess", "TimeoutError", f"preprocessing took longer than {limit}")
        meter.audio_seconds += part.seconds
        yield part


def sample_parts(phases: Phases, items: Sequence[Item], watchdog: Watchdog, seconds: float) -> list[Part]:
    """Up to SAMPLE parts of these items, made in about `seconds`; items that cannot be preprocessed give none."""
    parts: list[Part] = []
    deadline = time.monotonic() + seconds
    for item in ahead(items[:SAMPLE], phases.fetched):
        if len(parts) >= SAMPLE or time.monotonic() > deadline:
            break
        with contextlib.suppress(RowError):
            parts += itertools.islice(preprocess_item(phases, item, Meter(), watchdog), SAMPLE - len(parts))
    return parts


def postprocess_item(phases: Phases, outputs: list[Output], item: Item, meter: Meter, watchdog: Watchdog) -> object:
    """The prediction of an item. Raises RowError if postprocessing fails."""
    started = time.perf_counter()
    for output in outputs:
        if isinstance(output, dict) and "is_last" in output:
            del output["is_last"]
    try:
        with watchdog.on("postprocess", [item.key]):
            return phases.postprocess(outputs, item)
    except FATAL:
        raise
    except BaseException as error:  # pipelines raise different errors
        raise RowError.wrap("postprocess", error) from error
    finally:
        meter.postprocess_s += time.perf_counter() - started


_Window = list[tuple[int, int, Part]]  # (item, number of the part, part)
_Results = list[tuple[Output | RowError, Meter]]


def predict(
    phases: Phases, items: Sequence[Item], limits: Limits, watchdog: Watchdog, model_threads: ModelThreads | None = None
) -> list[Outcome]:
    """Runs all three phases for a block of items: the next window is preprocessed in a thread while the model runs one.

    Several threads may each call this for a block at the same time. The model runs the blocks' windows one block after the
    other, and meanwhile the first window of the next block is preprocessed.

    Parts that would be padded much wait for more parts of similar length, at most until the last window. At most four windows
    of parts are in memory, however long an item is: one runs, one is ready, one is being made, one waits for similar lengths.
    Where `model_threads.at_once` is 2 there are five, since the next window is begun before the last has ended.

    Returns:
        One outcome per item, in order.
    """
    model_threads = model_threads or ModelThreads(phases)
    pending = [_Pending(item) for item in items]
    held: _Window = []
    running: deque[tuple[_Window, Future[_Results]]] = deque()

    def finish() -> None:
        window, results = running.popleft()
        for (index, number, _), (output, meter) in zip(window, results.result(), strict=True):
            _keep(pending[index], number, output, meter)
        for index in dict.fromkeys(index for index, _, _ in window):
            _finish(phases, pending[index], watchdog)

    windows = _Prefetch(_windows(phases, pending, limits, watchdog))
    try:
        with model_threads.turn:
            for window in itertools.chain(windows, [None]):
                held += window or []
                is_small = sum(part.cost for _, _, part in held) < WINDOW_ELEMENTS
                now, held = _ready(held, limits) if window and is_small else (held, [])
                parts = [part for _, _, part in now]
                running.append(
                    (now, model_threads.begin(functools.partial(forward_parts, phases, parts, limits, watchdog, model_threads)))
                )
                while len(running) >= model_threads.at_once:
                    finish()
        while running:
            finish()
    finally:
        wait([results for _, results in running])
    for state in pending:
        state.outcome.meter.add(state.prepared)
    return [state.outcome for state in pending]


def _ready(window: _Window, limits: Limits) -> tuple[_Window, _Window]:
    """(parts to run now, parts to keep for the next window)."""
    chosen = full_batches([part for _, _, part in window], limits)
    return [window[index] for index in sorted(chosen)], [each for index, each in enumerate(window) if index not in chosen]


def _keep(state: _Pending, number: int, output: Output | RowError, meter: Meter) -> None:
    state.outcome.meter.add(meter)
    if isinstance(output, RowError):
        state.outcome.error = state.outcome.error or output
    else:
        state.outputs[number] = output


def _finish(phases: Phases, state: _Pending, watchdog: Watchdog) -> None:
    """Postprocesses an item if the outputs of all its parts are there."""
    outcome = state.outcome
    if outcome.error is not None or state.parts is None or len(state.outputs) < state.parts:
        return
    outputs = [state.outputs[number] for number in range(state.parts)]
    state.outputs = {}
    try:
        outcome.prediction = postprocess_item(phases, outputs, state.item, outcome.meter, watchdog)
    except RowError as error:
        outcome.error = error


def _windows(phases: Phases, pending: Sequence[_Pending], limits: Limits, watchdog: Watchdog) -> Iterator[_Window]:
    """Yields the parts of the items in windows of about WINDOW batches.

    The first window is small, since the model waits for it. While the model runs a window, there is time to make a larger one.
    """
    window: _Window = []
    elements, size = 0, FIRST
    for index, item in enumerate(ahead([state.item for state in pending], phases.fetched)):
        state, number = pending[index], 0
        try:
            for part in preprocess_item(phases, item, state.prepared, watchdog):
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
    """Iterates in a thread, one item ahead. An exception there is raised in the thread that takes the items."""

    def __init__(self, items: Iterator[_Window]) -> None:
        self._queue: queue.Queue[_Window | BaseException | None] = queue.Queue(maxsize=1)
        threading.Thread(target=self._fill, args=(items,), daemon=True).start()

    def _fill(self, items: Iterator[_Window]) -> None:
        try:
            for item in items:
                self._queue.put(item)
            self._queue.put(None)
        except BaseException as error:  # raised in the thread that takes the items
            self._queue.put(error)

    def __iter__(self) -> Iterator[_Window]:
        while True:
            item = self._queue.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
