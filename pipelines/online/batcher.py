"""One model for many callers: the waiting parts of all requests share its batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Output, Part
from dray.pipelines.engine.block import Outcome, postprocess_item, preprocess_item
from dray.pipelines.engine.forward import forward_parts
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import BusyError, RowError
from dray.pipelines.meter import Meter
from dray.pipelines.online.scheduler import Scheduler, WaitingPart
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import Phases

WAIT_S = 0.005  # the model waits this long for parts that are being made, counted from the oldest waiting part
AHEAD = 32  # the most waiting parts of a request; of a long recording the others are made later
AHEAD_BUDGETS = 2  # the most elements of these, in multiples of a batch's limit


@dataclass(eq=False)
class _PendingRequest:
    """A request that has not been answered."""

    item: Item
    arrived: float
    answer: Future[Outcome]
    parts: Iterator[Part]
    meter: Meter
    made: int = 0
    waiting: int = 0
    made_space: int = 0  # elements, padding included, of the parts that were made, and of those that wait
    waiting_space: int = 0
    is_made: bool = False  # all its parts
    is_making: bool = False
    is_finishing: bool = False
    outputs: dict[int, Output] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchStats:
    """The figures of a batch that has run.

    Attributes:
        parts: the number of its parts.
        capacity: the number of parts that it could have held.
        elements, padded_elements: without and with padding.
        waited_s: seconds that each part waited.
        forward_s: seconds that the model took.
    """

    parts: int
    capacity: int
    elements: int
    padded_elements: int
    waited_s: Sequence[float]
    forward_s: float


class Batcher:
    """Runs items of many callers through one pipeline.

    Preprocessing and postprocessing run in a few threads, the model in one. It takes the part with the earliest deadline and
    parts of similar length, as many as `limits` allow (scheduler.py). So short requests do not wait for long ones, and long
    ones do not starve.
    """

    def __init__(
        self,
        phases: Phases,
        limits: Limits,
        watchdog: Watchdog,
        most: int = 256,
        threads: int = 2,
        on_batch: Callable[[BatchStats], None] = lambda stats: None,
    ) -> None:
        """Starts its threads.

        Args:
            phases: the pipeline.
            limits: of a batch.
            watchdog: ends the process if work takes too long.
            most: the most unanswered requests; further ones are refused.
            threads: the number of threads for preprocessing and postprocessing.
            on_batch: called after every batch, in the model's thread.
        """
        self._phases, self._limits, self._watchdog, self._most, self._on_batch = phases, limits, watchdog, most, on_batch
        self._lock = threading.Condition()  # of all that follows, and of every request
        self._scheduler: Scheduler[_PendingRequest] = Scheduler(limits)
        self._under_way = self._making = 0
        self._is_closed = False
        self._threads = ThreadPoolExecutor(threads, "request")
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._model.start()

    @property
    def under_way(self) -> int:
        """The number of unanswered requests."""
        return self._under_way

    def submit(self, item: Item) -> Future[Outcome]:
        """Starts a request for an item. Returns the future outcome; cancel it to stop work on the request.

        Raises:
            BusyError: there are too many unanswered requests, or the service is shutting down.
        """
        meter = Meter()
        request = _PendingRequest(
            item, time.monotonic(), Future(), preprocess_item(self._phases, item, meter, self._watchdog), meter
        )
        with self._lock:
            if self._is_closed or self._under_way >= self._most:
                raise BusyError("the service is shutting down" if self._is_closed else f"{self._most} requests are under way")
            self._under_way += 1
        request.answer.add_done_callback(self._answered)
        self._start_making(request)
        return request.answer

    def check(self) -> None:
        """Raises RuntimeError if the model's thread has ended, which is a bug."""
        if not self._model.is_alive():
            raise RuntimeError("the thread of the model has ended")

    def close(self, timeout_s: float) -> bool:
        """Refuses further requests, and waits for the others. Returns whether all were answered within `timeout_s`."""
        with self._lock:
            self._is_closed = True
            return self._lock.wait_for(lambda: self._under_way == 0, timeout_s)

    def _answered(self, _: Future[Outcome]) -> None:
        with self._lock:
            self._under_way -= 1
            self._lock.notify_all()

    def _start_making(self, request: _PendingRequest) -> None:
        with self._lock:
            request.is_making, self._making = True, self._making + 1
        self._threads.submit(self._make_parts, request)

    def _make_parts(self, request: _PendingRequest) -> None:
        """Makes parts of a request until enough are waiting."""
        try:
            while not request.answer.done() and self._held(request) < 1:
                part = next(request.parts, None)
                if part is None:
                    request.is_made = True
                    break
                self._put(request, part)
            if request.is_made and request.made == 0:
                raise RowError("preprocess", "ValueError", "the input gave the model nothing to work on")
        except BaseException as error:  # a RowError, or a bug in dray, which the caller must get too
            self._fail(request, error)
        with self._lock:
            request.is_making, self._making = False, self._making - 1
            self._lock.notify_all()
        self._make_more(request)
        self._finish_if_done(request)

    def _make_more(self, request: _PendingRequest) -> None:
        """Makes more parts of a request if few of them are waiting."""
        with self._lock:
            if request.is_made or request.is_making or request.answer.done() or self._held(request) >= 0.5:
                return
            self._start_making(request)

    def _put(self, request: _PendingRequest, part: Part) -> None:
        with self._lock:
            request.made_space += part.space
            self._scheduler.add(request, request.arrived, request.made, part, request.made_space)
            request.made += 1
            request.waiting += 1
            request.waiting_space += part.space
            self._lock.notify_all()

    def _held(self, request: _PendingRequest) -> float:
        """The share of a request's allowed waiting parts, or elements, that are waiting; 1: no more may wait."""
        return max(request.waiting / AHEAD, request.waiting_space / (AHEAD_BUDGETS * self._limits.elements))

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._scheduler.waiting)
                while self._making and (rest := self._scheduler.patience(WAIT_S)) > 0:
                    self._lock.wait(rest)
                batch = self._taken()
            if batch:
                self._forward(batch)

    def _taken(self) -> list[WaitingPart[_PendingRequest]]:
        """The next batch, removed from the waiting parts."""
        cancelled = self._scheduler.remove(lambda request: request.answer.done())
        batch = self._scheduler.take()
        for each in [*cancelled, *batch]:
            each.request.waiting -= 1
            each.request.waiting_space -= each.part.space
        return batch

    def _forward(self, batch: Sequence[WaitingPart[_PendingRequest]]) -> None:
        started, began = time.perf_counter(), time.monotonic()
        try:
            results = forward_parts(self._phases, [each.part for each in batch], self._limits, self._watchdog)
        except BaseException as error:  # a bug in dray; the callers get the error
            for each in batch:
                self._fail(each.request, error)
            return
        spaces = [each.part.space for each in batch]
        waited, seconds = [began - each.since for each in batch], time.perf_counter() - started
        capacity = 1 if batch[0].part.group is Sharing.ALONE else max(len(batch), self._limits.capacity(max(spaces)))
        elements, padded = sum(each.part.cost for each in batch), len(batch) * max(spaces)
        with self._lock:
            self._scheduler.ran(seconds, padded)
        for each, (output, meter) in zip(batch, results, strict=True):
            each.request.meter.add(meter)
            if isinstance(output, RowError):
                self._fail(each.request, output)
            else:
                each.request.outputs[each.number] = output
        for request in dict.fromkeys(each.request for each in batch):
            self._make_more(request)
            self._finish_if_done(request)
        self._on_batch(BatchStats(len(batch), capacity, elements, padded, waited, seconds))  # last: nobody waits for it

    def _finish_if_done(self, request: _PendingRequest) -> None:
        with self._lock:
            is_done = request.is_made and not request.is_making and len(request.outputs) == request.made
            if not is_done or request.is_finishing or request.answer.done():
                return
            request.is_finishing = True
            outputs = [request.outputs[number] for number in range(request.made)]
        self._threads.submit(self._finish, request, outputs)

    def _finish(self, request: _PendingRequest, outputs: list[Output]) -> None:
        try:
            prediction = postprocess_item(self._phases, outputs, request.item, request.meter, self._watchdog)
        except BaseException as error:
            self._fail(request, error)
        else:
            with self._lock:
                if request.answer.set_running_or_notify_cancel():
                    request.answer.set_result(Outcome(prediction, meter=request.meter))

    def _fail(self, request: _PendingRequest, error: BaseException) -> None:
        """Answers a request with an error, unless it is already answered."""
        with self._lock:
            if not request.answer.done() and request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(error)
