"""The order in which parts of many requests run."""

import pytest

from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Part
from dray.pipelines.online.scheduler import Scheduler, WaitingPart, choose


def turns_of(*spaces, limits=None, last=0):
    turns = Scheduler(limits or Limits.budget(1024, 1 / 16))
    turns.waiting = [WaitingPart(float(deadline), 0.0, deadline, 0, Part({}, space)) for deadline, space in enumerate(spaces)]
    turns._last = last
    return turns


def spaces_of(batch):
    return [each.part.space for each in batch]


@pytest.mark.parametrize(
    ("spaces", "together"),
    [((7, 22, 300, 12), [7, 12, 22]), ((300, 22, 480, 420), [300, 420]), ((22, *[30] * 3, 480), [22, 30, 30, 30])],
)
def test_what_is_due_shares_its_batch_with_its_like_and_with_what_pads_less_than_a_batch_costs(spaces, together):
    assert spaces_of(choose(turns_of(*spaces).waiting, Limits.budget(1024, 1 / 16))) == together


def test_a_batch_that_is_not_full_lets_another_in_between():
    turns = turns_of(2, 60, limits=Limits.budget(64), last=2)
    assert [spaces_of(turns.take()) for _ in range(3)] == [[60], [2], []]


def test_what_is_due_is_passed_over_once_at_most():
    turns = turns_of(limits=Limits.budget(1000), last=100)
    turns.waiting = [WaitingPart(float(deadline), 0.0, deadline, 0, Part({}, 100, group=deadline)) for deadline in range(4)]
    assert [turns.take()[0].request for _ in range(4)] == [1, 0, 3, 2]


def test_of_a_long_request_only_the_first_part_is_let_in_between():
    turns = turns_of(2, limits=Limits.budget(64), last=2)
    turns.waiting.append(WaitingPart(1.0, 0.0, 1, 3, Part({}, 60)))
    assert spaces_of(turns.take()) == [2]


def test_the_longer_the_model_works_on_a_request_the_later_it_is_due():
    turns = turns_of()
    turns.ran(seconds=1.0, space=1000)
    turns.add("long", 10.0, 0, Part({}, 2000), 2000)
    turns.add("short", 11.0, 0, Part({}, 10), 10)
    long, short = turns.waiting
    assert long.deadline == pytest.approx(10 + 50 * 2.0)
    assert short.deadline == pytest.approx(11 + 50 * 0.01)
    assert turns.take()[0].request == "short"


def test_what_runs_alone_is_not_joined_and_what_nobody_wants_is_taken_out():
    turns = turns_of(5, 5, 5)
    turns.waiting[0] = WaitingPart(0.0, 0.0, 0, 0, Part({}, 5, group=Sharing.ALONE))
    assert [each.request for each in turns.remove(lambda request: request == 1)] == [1]
    assert [each.request for each in turns.take()] == [0]
    assert [each.request for each in turns.take()] == [2]
    assert turns.take() == []


def test_company_is_waited_for_until_a_batch_is_full():
    assert turns_of(limits=Limits.fixed(2)).patience(1e9) == 0.0
    assert turns_of(5, limits=Limits.fixed(2)).patience(1e9) > 0
    assert turns_of(5, 5, limits=Limits.fixed(2)).patience(1e9) == 0.0
    assert turns_of(600, 600).patience(1e9) == 0.0
