"""Many callers and one model; a stand-in for it keeps the tests exact."""

import threading
import time
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest
from support import builders
from support.comparing import differences
from support.loading import load_phases

from dray.pipelines.batching.parts import Limits, Part
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import BusyError, RowError
from dray.pipelines.online import batcher as online
from dray.pipelines.online.batcher import AHEAD_BUDGETS, Batcher
from dray.pipelines.phases.item import Item

SOON = 20.0  # seconds that nothing here takes


def item_of(*numbers):
    return Item({"x": numbers})


class Panic(BaseException):
    """As pyo3 raises it for a panic of Rust's."""


class Doubling:
    """Items are numbers, a part each; the model doubles. 13 makes it fail, 666 makes preprocessing fail. Runs if `open`."""

    batches_at_once = 1

    def __init__(self):
        self.pipe = SimpleNamespace(tokenizer=None)
        self.batches, self.made = [], 0
        self.open = threading.Event()
        self.open.set()

    def fetched(self, item):
        return item

    def preprocess(self, item):
        for number in item.values["x"]:
            if number == 666:
                raise UnicodeError("bad row")
            if number == 667:
                raise Panic("in native code")
            self.made += 1
            yield Part({"x": number}, cost=number)

    def stage(self, parts):
        pass

    def unstage(self):
        pass

    def forward(self, parts):
        self.open.wait(SOON)
        numbers = [part.inputs["x"] for part in parts]
        self.batches.append(numbers)
        if 13 in numbers:
            raise ValueError("13 in the batch")
        return [{"y": 2 * number} for number in numbers]

    def postprocess(self, outputs, item):
        return [output["y"] for output in outputs]


AHEAD = AHEAD_BUDGETS * 40 // 20  # parts of 20 elements, in batches of 40


def batcher_of(phases, elements=64, **options):
    return Batcher(phases, Limits.budget(elements), Watchdog(600), **options)


def held(phases, batcher):
    """Occupies the model until it is opened."""
    phases.open.clear()
    first = batcher.submit(item_of(1))
    deadline = time.monotonic() + SOON
    while batcher._scheduler.waiting or not phases.made:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return first


def until(condition):
    deadline = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_requests_share_batches_and_get_their_own_answers():
    phases = Doubling()
    batcher = batcher_of(phases)
    held(phases, batcher)
    answers = [batcher.submit(item_of(number, number + 1)) for number in range(4, 10)]
    until(lambda: len(batcher._scheduler.waiting) == 12)
    phases.open.set()
    assert [answer.result(SOON).prediction for answer in answers] == [[2 * n, 2 * n + 2] for n in range(4, 10)]
    assert len(phases.batches) < 8
    assert all(len(batch) * max(batch) <= 64 for batch in phases.batches)
    until(lambda: batcher.under_way == 0)


def test_bad_requests_fail_alone():
    phases = Doubling()
    batcher = batcher_of(phases)
    held(phases, batcher)
    good, bad, worse, empty = (batcher.submit(item_of(*numbers)) for numbers in ((12, 14), (12, 13), (2, 666), ()))
    phases.open.set()
    assert good.result(SOON).prediction == [24, 28]
    with pytest.raises(RowError, match="13 in the batch") as error:
        bad.result(SOON)
    assert (error.value.stage, error.value.kind) == ("forward", "ValueError")
    with pytest.raises(RowError, match="bad row"):
        worse.result(SOON)
    with pytest.raises(RowError, match="gave the model nothing to work on"):
        empty.result(SOON)
    assert batcher.submit(item_of(5)).result(SOON).prediction == [10]


def test_short_requests_get_in_between_the_parts_of_a_long_one():
    phases = Doubling()
    batcher = batcher_of(phases, elements=40)
    held(phases, batcher)
    long = batcher.submit(item_of(*[20] * 200))
    until(lambda: len(batcher._scheduler.waiting) == AHEAD)
    short = [batcher.submit(item_of(number)) for number in (3, 19)]
    until(lambda: len(batcher._scheduler.waiting) == AHEAD + 2)
    phases.open.set()
    assert [answer.result(SOON).prediction for answer in short] == [[6], [38]]
    assert long.result(SOON).prediction == [40] * 200
    assert max(place for place, batch in enumerate(phases.batches) if set(batch) & {3, 19}) < 5


def test_only_the_next_parts_of_a_long_request_are_made():
    phases = Doubling()
    batcher = batcher_of(phases, elements=40)
    held(phases, batcher)
    long = batcher.submit(item_of(*[20] * 1000))
    until(lambda: len(batcher._scheduler.waiting) == AHEAD)
    time.sleep(0.05)
    assert phases.made == 1 + AHEAD
    phases.open.set()
    assert long.result(SOON).prediction == [40] * 1000


def test_a_cancelled_request_gives_its_place_away():
    phases = Doubling()
    batcher = batcher_of(phases, most=3)
    held(phases, batcher)
    unwanted, wanted = batcher.submit(item_of(*[7] * 100)), batcher.submit(item_of(5))
    with pytest.raises(BusyError, match="3 requests are under way"):
        batcher.submit(item_of(6))
    assert unwanted.cancel()
    another = batcher.submit(item_of(6))
    phases.open.set()
    assert (wanted.result(SOON).prediction, another.result(SOON).prediction) == ([10], [12])
    with pytest.raises(CancelledError):
        unwanted.result(SOON)
    assert not any(7 in batch for batch in phases.batches)


def test_what_was_begun_is_finished_before_the_end():
    phases = Doubling()
    batcher = batcher_of(phases)
    first = held(phases, batcher)
    assert not batcher.close(0.01)
    with pytest.raises(BusyError, match="shutting down"):
        batcher.submit(item_of(2))
    phases.open.set()
    assert batcher.close(SOON)
    assert first.result(0).prediction == [2]


def test_batches_are_told_of():
    ran, phases = [], Doubling()
    batcher = batcher_of(phases, on_batch=ran.append)
    held(phases, batcher)
    answers = [batcher.submit(item_of(number)) for number in (10, 12)]
    until(lambda: len(batcher._scheduler.waiting) == 2)
    phases.open.set()
    for answer in answers:
        answer.result(SOON)
    until(lambda: len(ran) == 2)
    last = ran[-1]
    assert (last.parts, last.elements, last.padded_elements) == (2, 22, 24)
    assert len(last.waited_s) == 2
    assert min(last.waited_s) >= 0


@pytest.mark.parametrize("callers", [1, 16])
def test_answers_are_those_of_a_job(models, callers):
    raw = {"task": "text-classification", "model": models.text_classifier, "input": {"path": "-"}, "output": {"path": "-"}}
    phases, limits = load_phases(parse_config(raw), weights=True), Limits.budget(256)
    items = [Item({"text": text}) for text in builders.texts(64, median=12)]
    expected = [outcome.prediction for outcome in predict(phases, items, limits, Watchdog(60))]
    batcher = Batcher(phases, limits, Watchdog(60))
    found = [None] * len(items)

    def call(first):
        for place in range(first, len(items), callers):
            found[place] = batcher.submit(items[place]).result(SOON).prediction

    threads = [threading.Thread(target=call, args=(first,)) for first in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not differences(found, expected)


def test_a_part_waits_no_longer_than_it_must(monkeypatch):
    """Another request is being made all the while; the one that is there is run after a short time."""
    monkeypatch.setattr(online, "WAIT_S", 0.01)
    phases, stuck = Doubling(), threading.Event()
    preprocess = phases.preprocess

    def slowly(item):
        if 4 in item.values["x"]:
            stuck.wait(SOON)
        yield from preprocess(item)

    phases.preprocess = slowly
    batcher = batcher_of(phases)
    slow = batcher.submit(item_of(4))
    assert batcher.submit(item_of(3)).result(SOON).prediction == [6]
    assert not slow.done()
    stuck.set()
    assert slow.result(SOON).prediction == [8]


def test_a_batch_that_is_not_full_lets_another_in_between():
    phases = Doubling()
    batcher = batcher_of(phases, elements=64)
    held(phases, batcher)
    answers = [batcher.submit(item_of(number)) for number in (2, 2, 60)]
    until(lambda: len(batcher._scheduler.waiting) == 3)
    phases.open.set()
    for answer in answers:
        answer.result(SOON)
    assert phases.batches[1:] == [[2, 2], [60]]


def test_a_panic_of_native_code_is_the_rows_error():
    batcher = batcher_of(Doubling())
    with pytest.raises(RowError, match="in native code"):
        batcher.submit(item_of(667)).result(SOON)
    assert batcher.submit(item_of(5)).result(SOON).prediction == [10]
