"""Which row a worker has died of, by what the ledger was told before."""

import pytest

from jobs.ledger import DEATHS, Ledger
from pipelines.errors import RowError


@pytest.fixture
def ledger():
    return Ledger.__ray_metadata__.modified_class()


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
