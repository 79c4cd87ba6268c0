"""Which row a worker has died of, by what the ledger was told before; and a worker's blocks side by side."""

import itertools
import queue
import threading
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray

from dray.jobs.batch.ledger import DEATHS, Ledger, LedgerClient
from dray.jobs.columns import KEY
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import ModelError, RowError

SOON_S = 20.0


class Told:
    """A ledger to which every block is brought by another worker, unless it is named."""

    def __init__(self):
        self._ledger = Ledger.__ray_metadata__.modified_class()
        self._workers = map(str, itertools.count())

    def begin(self, block, worker=None):
        return self._ledger.begin(block, worker or next(self._workers))

    def __getattr__(self, name):
        return getattr(self._ledger, name)


@pytest.fixture
def ledger():
    return Told()


def test_a_block_that_ends_is_forgotten(ledger):
    assert ledger.begin("a").deaths == 0
    ledger.end("a")
    assert ledger.begin("a").deaths == 0
    assert ledger.count().deaths == 0


def test_a_row_is_blamed_after_it_was_there_alone_often_enough(ledger):
    ledger.begin("a")
    for death in range(1, DEATHS + 1):
        verdict = ledger.begin("a")
        assert (verdict.deaths, verdict.blamed) == (death, {})
        ledger.alone("a", 7, "preprocess")
        ledger.alone("a", 8, "forward")
    verdict = ledger.begin("a")
    assert verdict.blamed.keys() == {8}
    assert (verdict.blamed[8].stage, verdict.blamed[8].kind, verdict.blamed[8].attempts) == (
        "forward",
        "WorkerDied",
        DEATHS + 1,
    )
    assert ledger.count().deaths == DEATHS + 1


def test_rows_of_one_block_are_tried_equally_often(ledger):
    """However often the worker has died of others in the meantime."""
    ledger.begin("a")
    for key in (3, 8):
        for _ in range(DEATHS):
            ledger.begin("a")
            ledger.alone("a", key, "forward")
    ledger.begin("a")
    ledger.blame("a", 9, RowError("forward", "TimeoutError", "took too long"))
    assert {key: error.attempts for key, error in ledger.begin("a").blamed.items()} == {3: DEATHS + 1, 8: DEATHS + 1, 9: 2}


def test_a_worker_that_dies_between_rows_blames_nobody(ledger):
    ledger.begin("a")
    for _ in range(5):
        assert ledger.begin("a").blamed == {}
    ledger.end("a")
    ledger.begin("b")
    ledger.alone("b", 1, "forward")
    ledger.end("b")
    assert ledger.begin("b").deaths == 0


def test_a_worker_that_knows_why_it_ends_says_so_at_once(ledger):
    ledger.begin("a")
    ledger.blame("a", 5, RowError("forward", "TimeoutError", "took too long"))
    verdict = ledger.begin("a")
    assert str(verdict.blamed[5]) == "took too long"
    assert verdict.blamed[5].attempts == 1


def test_a_repeated_write_task_counts_once(ledger):
    ledger.written("x", 5, 1)
    ledger.written("y", 2, 0)
    ledger.written("x", 4, 2)
    assert (ledger.count().ok, ledger.count().failed, ledger.count().done) == (6, 2, 8)


def test_a_worker_that_dies_with_two_blocks_is_one(ledger):
    for block in ("a", "b"):
        ledger.begin(block, "first")
    for block in ("a", "b"):
        assert ledger.begin(block, "second").deaths == 1
    assert ledger.count().deaths == 1


@pytest.fixture
def guard(ledger, monkeypatch):
    """Of a worker whose ledger is in the same process."""
    monkeypatch.setattr(ray, "get", lambda value, timeout=None: value)

    def handle(name):
        return SimpleNamespace(remote=getattr(ledger, name))

    return LedgerClient(
        SimpleNamespace(**{name: handle(name) for name in ("begin", "end", "alone", "blame", "refused", "succeeded")}),
        Watchdog(60),
        "fused",
    )


def table(*keys):
    return pa.table({KEY: pa.array(keys, pa.int64())})


def working(guard, rows, seen, may_end):
    """A thread that does these rows until it may end."""

    def work():
        with guard.block(rows) as verdict:
            seen.put((rows[KEY].to_pylist(), verdict.deaths))
            may_end.wait(SOON_S)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_blocks_are_done_side_by_side(guard):
    with guard.block(table(1, 2)), guard.block(table(3)) as second:
        assert second.deaths == 0


def test_a_block_that_a_worker_has_died_of_is_done_alone(guard, ledger):
    with pytest.raises(ZeroDivisionError), guard.block(table(1, 2)):
        raise ZeroDivisionError  # as good as a death: it is not ended
    seen, events = queue.Queue(), [threading.Event() for _ in range(3)]
    threads = [working(guard, table(5), seen, events[0])]
    assert seen.get(timeout=SOON_S) == ([5], 0)
    threads.append(working(guard, table(1, 2), seen, events[1]))
    with pytest.raises(queue.Empty):
        seen.get(timeout=0.3)  # it waits for the other
    events[0].set()
    assert seen.get(timeout=SOON_S) == ([1, 2], 1)
    threads.append(working(guard, table(7), seen, events[2]))
    with pytest.raises(queue.Empty):
        seen.get(timeout=0.3)  # others wait for it
    events[1].set()
    assert seen.get(timeout=SOON_S) == ([7], 0)
    events[2].set()
    for thread in threads:
        thread.join(SOON_S)
    assert ledger.count().deaths == 1


def test_each_row_of_such_a_block_is_announced(guard, ledger):
    for _ in range(DEATHS):
        with pytest.raises(ZeroDivisionError), guard.block(table(1, 2)), guard._watchdog.on("forward", [2]):
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), guard.block(table(1, 2)), guard._watchdog.on("forward", [2]):
        raise ZeroDivisionError
    with guard.block(table(1, 2)) as verdict:
        assert verdict.blamed.keys() == {2}
    with guard.block(table(3)), guard._watchdog.on("forward", [3, 4]):
        pass  # nothing is announced any more


def refused(client, keys, *errors):
    with client.block(table(*keys)) as record:
        client.check_forward(record, list(errors))


DIFFERENT = RowError("forward", "RuntimeError", "sizes differ")


def test_a_model_that_refuses_every_row_of_two_blocks_is_to_blame(guard):
    refused(guard, (1, 2), DIFFERENT, DIFFERENT)
    refused(guard, (1, 2), DIFFERENT, DIFFERENT)  # the same block, done again
    with pytest.raises(ModelError, match="the model refuses every row, with the same error: RuntimeError: sizes differ"):
        refused(guard, (3, 4), DIFFERENT, DIFFERENT)


@pytest.mark.parametrize(
    "second", [(DIFFERENT, None), (DIFFERENT,), (DIFFERENT, RowError("forward", "RuntimeError", "too long")), ()]
)
def test_otherwise_the_rows_are_to_blame(guard, second):
    refused(guard, (1, 2), DIFFERENT, DIFFERENT)
    refused(guard, (3, 4), *second)
    refused(guard, (5, 6), *second)


def test_a_model_that_has_taken_rows_before_is_not_to_blame(guard):
    refused(guard, (7, 8), None, DIFFERENT)
    refused(guard, (1, 2), DIFFERENT, DIFFERENT)
    refused(guard, (3, 4), DIFFERENT, DIFFERENT)
