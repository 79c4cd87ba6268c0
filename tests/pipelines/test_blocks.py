"""Two blocks given to one worker at once, in threads: in turns with the model, and each by its own options."""

import threading
import time

import builders
from test_engine import Doubling, item_of
from test_lanes import WATCH, load

from pipelines.batching import Limits
from pipelines.engine import predict
from pipelines.lanes import Lanes
from pipelines.phases import Item


def test_one_lane_apart_is_always_the_same_thread():
    lanes = Lanes(Doubling(), apart=True)
    names = set()
    callers = [threading.Thread(target=lambda: names.add(lanes.begin(threading.get_ident).result())) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(30)
    assert len(names) == 1
    assert threading.get_ident() not in names


def test_the_next_block_is_prepared_while_one_runs_and_begun_after_it():
    order, made = [], threading.Event()

    class Holding(Doubling):
        def preprocess(self, item):
            if item.cells["x"] == [2]:
                made.set()
            return super().preprocess(item)

        def forward(self, parts):
            if parts[0].inputs["x"] == 1:
                assert made.wait(30)
            order.append(parts[0].inputs["x"])
            return super().forward(parts)

    phases = Holding()
    lanes = Lanes(phases)
    first = threading.Thread(target=lambda: predict(phases, [item_of([1])], Limits.fixed(1), WATCH, lanes))
    first.start()
    while not lanes.turn.locked():
        time.sleep(0.01)
    predict(phases, [item_of([2])], Limits.fixed(1), WATCH, lanes)
    first.join(30)
    assert order == [1, 2]


def test_rows_of_two_blocks_are_cut_each_as_it_asks(tmp_path):
    """Tokenizers keep how to cut from one call to the next; here two threads use one."""
    phases = load(builders.text_classifier(tmp_path / "model"), "text-classification")
    text = " ".join(builders.texts(1, median=40))
    wrong = []

    def work(length):
        item = Item({"text": text}, {"truncation": True, "max_length": length})
        for _ in range(400):
            (part,) = phases.preprocess(item)
            if part.cost != length:
                wrong.append((length, part.cost))

    threads = [threading.Thread(target=work, args=(length,)) for length in (4, 16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []
