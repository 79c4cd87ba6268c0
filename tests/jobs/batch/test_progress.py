"""The line that shows how a job goes on."""

import pytest

from dray.jobs.batch import progress
from dray.jobs.batch.ledger import Count
from dray.jobs.batch.progress import ProgressLine


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def shown(capsys) -> str:
    return capsys.readouterr().out.strip()


def test_rates_are_counted_from_the_first_rows(clock, capsys):
    line = ProgressLine(1000, interval_s=1)
    clock[0] += 20
    line.show(Count(0, 0))
    assert shown(capsys) == "0/1000 rows, starting (20 s)"
    clock[0] += 5
    line.show(Count(100, 0))
    clock[0] += 10
    line.show(Count(290, 10))
    assert shown(capsys).splitlines()[-1] == "300/1000 rows, 20.0 rows/s, 10 failed, 35 s left"


def test_a_count_that_begins_again_gives_no_negative_rate(clock, capsys):
    line = ProgressLine(1000, interval_s=1)
    for rows in (0, 100, 300, 0, 40, 80):
        clock[0] += 10
        line.show(Count(rows, 0))
    lines = shown(capsys).splitlines()
    assert all("-" not in each for each in lines)
    assert lines[-1] == "80/1000 rows, 4.0 rows/s, 0 failed, 4 min left"
