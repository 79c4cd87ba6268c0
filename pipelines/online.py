"""One model, many callers: parts of all requests that wait share its batches."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from pipelines.batching import UNBOUNDED, Limits, Output, Part
from pipelines.engine import Outcome, forward_parts, postprocess_item, preprocess_item
from pipelines.errors import BusyError, RowError
from pipelines.meter import Meter
from pipelines.padding import Sharing
from pipelines.phases import Item, Phases
from pipelines.watch import Watch

WAIT_S = 0.005  # for which the model waits for parts that are being made, counted from the oldest that is there
TOKENIZING = threading.Lock()  # held while a tokenizer is used that threads share
AHEAD = 32  # parts of a request that wait at most; of a long recording the others are made later
AHEAD_BUDGETS = 2  # and at most about as many elements as so many batches hold
ALIKE = (
    1.5  # times as long as the shortest may the longest part of a batch be, or longer where that pads less than a batch costs
)
LET_IN_S = 0.3  # a batch that is not full waits for another that takes less, if its like ran last: more will share it then
PATIENCE = 50  # times the model's seconds for a request are added to its arrival: what takes less comes first for so long
FORGOTTEN = 0.05  # of what is known of the model's speed, with every batch


@dataclass(eq=False)
class _Request:
    """An item on its way."""

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


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A part that is ready to run. The smaller `due`, the sooner."""

    due: float
    since: float
    request: _Request
    number: int
    part: Part


@dataclass(frozen=True)
class Ran:
    """What is known of a batch that has run.

    Attributes:
        parts: in it.
        room: for so many.
        elements, padded_elements: without and with padding.
        waited_s: how long each part waited.
        forward_s: how long the model took.
    """

    parts: int
    room: int
    elements: int
    padded_elements: int
    waited_s: Sequence[float]
    forward_s: float


class Batcher:
    """Runs items of many callers through one pipeline.

    Preprocessing and postprocessing run in a few threads, the model in one. It takes the part that is due first and those
    like it, as many as `limits` allow. A part is due when its request came, and later the longer the model will have worked
    on the request with it: short ones do not wait for long ones, nor for the rest of a long one, which is not starved.
    """

    def __init__(
        self,
        phases: Phases,
        limits: Limits,
        watch: Watch,
        most: int = 256,
        threads: int = 2,
        heard: Callable[[Ran], None] = lambda ran: None,
    ) -> None:
        """Starts its threads.

        Args:
            phases: the pipeline.
            limits: of a batch.
            watch: hears of all work.
            most: requests under way; more are refused.
            threads: that prepare parts and make predictions of outputs.
            heard: told of every batch, in the model's thread.
        """
        self._phases, self._limits, self._watch, self._most, self._heard = phases, limits, watch, most, heard
        self._lock = threading.Condition()  # of all that follows, and of every request
        self._waiting: list[_Waiting] = []
        self._under_way = self._making = 0
        self._last = 0  # elements of the longest part in the last batch
        self._lets_in = False  # whether that was let in between
        self._ran_s = self._ran_space = 0.0  # of the last batches: the model's seconds, and elements with padding
        self._is_closed = False
        self._tokenizes = tokenizes(phases)
        self._threads = ThreadPoolExecutor(threads, "request")
        self._model = threading.Thread(target=self._run, name="model", daemon=True)
        self._model.start()

    @property
    def under_way(self) -> int:
        """Requests that have not been answered."""
        return self._under_way

    def submit(self, item: Item) -> Future[Outcome]:
        """The prediction of an item with what it took, when it is there. To cancel it gives its place to others.

        Raises:
            BusyError: too many are under way, or the service is being shut down.
        """
        meter = Meter()
        request = _Request(item, time.monotonic(), Future(), preprocess_item(self._phases, item, meter, self._watch), meter)
        with self._lock:
            if self._is_closed or self._under_way >= self._most:
                raise BusyError("the service is shutting down" if self._is_closed else f"{self._most} requests are under way")
            self._under_way += 1
        request.answer.add_done_callback(self._answered)
        self._make(request)
        return request.answer

    def check(self) -> None:
        """Raises RuntimeError where the model's thread has ended, which it never should."""
        if not self._model.is_alive():
            raise RuntimeError("the thread of the model has ended")

    def close(self, timeout_s: float) -> bool:
        """Takes no more requests, and waits for those it has. Returns whether all were answered in time."""
        with self._lock:
            self._is_closed = True
            return self._lock.wait_for(lambda: self._under_way == 0, timeout_s)

    def _answered(self, _: Future[Outcome]) -> None:
        with self._lock:
            self._under_way -= 1
            self._lock.notify_all()

    def _make(self, request: _Request) -> None:
        with self._lock:
            request.is_making, self._making = True, self._making + 1
        self._threads.submit(self._made, request)

    def _made(self, request: _Request) -> None:
        """Makes parts of a request until enough of them wait."""
        try:
            while not request.answer.done() and self._held(request) < 1:
                with TOKENIZING if self._tokenizes else contextlib.nullcontext():
                    part = next(request.parts, None)
                if part is None:
                    request.is_made = True
                    break
                self._put(request, part)
            if request.is_made and request.made == 0:
                raise RowError("preprocess", "ValueError", "the input gave the model nothing to work on")
        except BaseException as error:  # a row error, or a fault of ours, which must not end in silence
            self._fail(request, error)
        with self._lock:
            request.is_making, self._making = False, self._making - 1
            self._lock.notify_all()
        self._make_more(request)
        self._finish_if_done(request)

    def _make_more(self, request: _Request) -> None:
        """Goes on where few of its parts wait."""
        with self._lock:
            if request.is_made or request.is_making or request.answer.done() or self._held(request) >= 0.5:
                return
            self._make(request)

    def _put(self, request: _Request, part: Part) -> None:
        now = time.monotonic()
        with self._lock:
            request.made_space += part.space
            due = request.arrived + PATIENCE * self._pace * request.made_space
            self._waiting.append(_Waiting(due, now, request, request.made, part))
            request.made += 1
            request.waiting += 1
            request.waiting_space += part.space
            self._lock.notify_all()

    def _held(self, request: _Request) -> float:
        """How much of what may wait of a request does; 1: all."""
        return max(request.waiting / AHEAD, request.waiting_space / (AHEAD_BUDGETS * self._limits.elements))

    def _run(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting)
                while self._making and (rest := self._patience()) > 0:
                    self._lock.wait(rest)
                batch = self._taken()
            if batch:
                self._forward(batch)

    def _patience(self) -> float:
        """Seconds for which to wait for the parts that are being made; none where those that are there fill a batch."""
        if sum(each.part.space for each in self._waiting) >= self._limits.elements or len(self._waiting) >= self._limits.parts:
            return 0.0
        return min(each.since for each in self._waiting) + WAIT_S - time.monotonic() if self._waiting else 0.0

    def _taken(self) -> list[_Waiting]:
        """The next batch, taken from those that wait."""
        gone = [each for each in self._waiting if each.request.answer.done()]
        live = [each for each in self._waiting if not each.request.answer.done()]
        batch = self._chosen(live) if live else []
        chosen = set(map(id, batch))
        self._waiting = [each for each in live if id(each) not in chosen]
        for each in [*gone, *batch]:
            each.request.waiting -= 1
            each.request.waiting_space -= each.part.space
        return batch

    def _chosen(self, live: Sequence[_Waiting]) -> list[_Waiting]:
        """What is due first with its like; or, in between two batches of the like that are not full, what else is due."""
        batch = choose(live, self._limits)
        longest = max(each.part.space for each in batch)
        last, self._last = self._last, longest
        is_full = batch[0].part.group is Sharing.ALONE or len(batch) >= self._limits.room(longest)
        was_let_in, self._lets_in = self._lets_in, False  # never twice in a row: what is due must not starve
        if is_full or was_let_in or not last / ALIKE <= longest <= last * ALIKE:
            return batch
        first = set(map(id, batch))
        rest = [each for each in live if id(each) not in first and each.number == 0]  # of a long item, the rest can wait
        other = choose(rest, self._limits) if rest else []
        if not other or self._pace * len(other) * max(each.part.space for each in other) > LET_IN_S:
            return batch
        self._last, self._lets_in = max(each.part.space for each in other), True
        return other

    @property
    def _pace(self) -> float:
        """The model's seconds for an element; 0 until it has run."""
        return self._ran_s / self._ran_space if self._ran_space else 0.0

    def _forward(self, batch: Sequence[_Waiting]) -> None:
        started, began = time.perf_counter(), time.monotonic()
        try:
            results = forward_parts(self._phases, [each.part for each in batch], self._limits, self._watch)
        except BaseException as error:  # a fault of ours; the callers must hear of it
            for each in batch:
                self._fail(each.request, error)
            return
        spaces = [each.part.space for each in batch]
        waited, seconds = [began - each.since for each in batch], time.perf_counter() - started
        room = 1 if batch[0].part.group is Sharing.ALONE else max(len(batch), self._limits.room(max(spaces)))
        elements, padded = sum(each.part.cost for each in batch), len(batch) * max(spaces)
        self._ran_s, self._ran_space = (1 - FORGOTTEN) * self._ran_s + seconds, (1 - FORGOTTEN) * self._ran_space + padded
        self._heard(Ran(len(batch), room, elements, padded, waited, seconds))
        for each, (output, meter) in zip(batch, results, strict=True):
            each.request.meter.add(meter)
            if isinstance(output, RowError):
                self._fail(each.request, output)
            else:
                each.request.outputs[each.number] = output
        for request in dict.fromkeys(each.request for each in batch):
            self._make_more(request)
            self._finish_if_done(request)

    def _finish_if_done(self, request: _Request) -> None:
        with self._lock:
            is_done = request.is_made and not request.is_making and len(request.outputs) == request.made
            if not is_done or request.is_finishing or request.answer.done():
                return
            request.is_finishing = True
            outputs = [request.outputs[number] for number in range(request.made)]
        self._threads.submit(self._finish, request, outputs)

    def _finish(self, request: _Request, outputs: list[Output]) -> None:
        try:
            prediction = postprocess_item(self._phases, outputs, request.item, request.meter, self._watch)
        except BaseException as error:
            self._fail(request, error)
        else:
            with self._lock:
                if request.answer.set_running_or_notify_cancel():
                    request.answer.set_result(Outcome(prediction, meter=request.meter))

    def _fail(self, request: _Request, error: BaseException) -> None:
        """The first error of a request is its answer."""
        with self._lock:
            if not request.answer.done() and request.answer.set_running_or_notify_cancel():
                request.answer.set_exception(error)


def tokenizes(phases: Phases) -> bool:
    """Whether preprocessing uses a tokenizer, which threads must not do at once: calls change its settings."""
    return phases.pipe.tokenizer is not None and phases.task.name != "automatic-speech-recognition"


def choose(waiting: Sequence[_Waiting], limits: Limits) -> list[_Waiting]:
    """The part that is due first, and of those that may share its batch the ones nearest to it in length."""
    first = min(waiting, key=lambda each: each.due)
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
            and (most <= ALIKE * shorter or most - shorter <= slack)
            and limits.room(most) >= count
        )  # fmt: skip
        may_grow = (
            longer is not None
            and (longer <= ALIKE * least or (longer - most) * (count - 1) <= slack)
            and limits.room(longer) >= count
        )  # fmt: skip
        if may_shrink and (not may_grow or first.part.space - shorter <= longer - first.part.space):  # type: ignore[operator]
            low -= 1
        elif may_grow:
            high += 1
        else:
            return mates[low : high + 1]
