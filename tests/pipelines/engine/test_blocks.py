"""Two blocks given to one worker at once, in threads: in turns with the model."""

import threading
import time

from support.doubling import Doubling, item_of

from dray.pipelines.batching.parts import Limits
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.model_threads import ModelThreads
from dray.pipelines.engine.watchdog import Watchdog


def test_one_lane_apart_is_always_the_same_thread():
    model_threads = ModelThreads(Doubling(), apart=True)
    names = set()
    callers = [threading.Thread(target=lambda: names.add(model_threads.begin(threading.get_ident).result())) for _ in range(3)]
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
            if item.values["x"] == [2]:
                made.set()
            return super().preprocess(item)

        def forward(self, parts):
            if parts[0].inputs["x"] == 1:
                assert made.wait(30)
            order.append(parts[0].inputs["x"])
            return super().forward(parts)

    phases = Holding()
    model_threads = ModelThreads(phases)
    first = threading.Thread(target=lambda: predict(phases, [item_of([1])], Limits.fixed(1), Watchdog(60), model_threads))
    first.start()
    while not model_threads.turn.locked():
        time.sleep(0.01)
    predict(phases, [item_of([2])], Limits.fixed(1), Watchdog(60), model_threads)
    first.join(30)
    assert order == [1, 2]
