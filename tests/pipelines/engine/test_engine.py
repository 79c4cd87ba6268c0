"""What goes wrong with rows, and how parts find their way back; a stand-in for the model keeps it exact."""

import threading

import pytest
import torch
from support.doubling import Doubling, item_of

from dray.pipelines.batching.parts import Limits, Part
from dray.pipelines.engine.block import WINDOW, _Pending, _windows, predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import RowError
from dray.pipelines.phases.item import Item as Item
from dray.pipelines.tasks.arrow import decode, encode


def run(items, limits=None):
    phases = Doubling()
    outcomes = predict(phases, [item_of(item) for item in items], limits or Limits.budget(40), Watchdog(60))
    return phases, outcomes


def test_parts_of_many_items_share_batches_and_come_back_in_order():
    items = [[i, i + 1, 2 * i + 1] for i in range(1, 400) if i not in (6, 12, 13)]
    phases, outcomes = run(items)
    assert [outcome.prediction for outcome in outcomes] == [[2 * n for n in item] for item in items]
    assert any(len(batch) > 3 for batch in phases.batches)
    assert all(outcome.meter.audio_seconds == 3 for outcome in outcomes)
    assert sum(outcome.meter.elements for outcome in outcomes) == sum(map(sum, items))


def test_a_bad_part_fails_its_item_alone():
    items = [[1, 2], [3, 13, 4], [5], [666], [7, 666], [], [8]]
    _, outcomes = run(items)
    assert [outcome.prediction for outcome in outcomes] == [[2, 4], None, [10], None, None, None, [16]]
    stages = [outcome.error and (outcome.error.stage, outcome.error.kind) for outcome in outcomes]
    assert stages[1] == ("forward", "ValueError")
    assert stages[3] == stages[4] == ("preprocess", "UnicodeError")
    assert str(outcomes[5].error) == "the item gave the model no input"


def test_postprocessing_may_fail_too():
    outcomes = predict(Doubling(), [item_of([1], {"fail": True}), item_of([1])], Limits.fixed(4), Watchdog(60))
    assert outcomes[0].error.stage == "postprocess"
    assert outcomes[1].prediction == [2]


def test_preprocessing_that_takes_too_long_fails_the_row():
    class Slow(Doubling):
        def preprocess(self, item):
            for part in super().preprocess(item):
                threading.Event().wait(0.02)
                yield part

    outcomes = predict(Slow(), [item_of([1] * 50), item_of([2])], Limits.fixed(4), Watchdog(0.2))
    assert outcomes[0].error.kind == "TimeoutError"
    assert "errors.timeout_s" in str(outcomes[0].error)
    assert outcomes[1].prediction == [4]


def test_an_endless_item_is_held_in_windows():
    """At most two windows of parts exist at a time."""
    alive, most = set(), [0]

    class Counted(Doubling):
        def preprocess(self, item):
            for number in range(item.values["x"][0]):
                part = Part({"x": 1, "n": number}, cost=1)
                alive.add(number)
                most[0] = max(most[0], len(alive))
                yield part

        def forward(self, parts):
            alive.difference_update(part.inputs["n"] for part in parts)
            return super().forward(parts)

    (outcome,) = predict(Counted(), [item_of([10_000])], Limits.fixed(8), Watchdog(60))
    assert len(outcome.prediction) == 10_000
    assert most[0] <= 4 * WINDOW * 8


def test_the_first_window_is_small():
    """The model starts on the first few batches, and does not wait until many pictures are decoded."""
    pending = [_Pending(item_of([1])) for _ in range(2000)]
    sizes = [len(window) for window in _windows(Doubling(), pending, Limits.fixed(4), Watchdog(60))]
    assert sizes[:3] == [8, 64, 512]
    assert max(sizes) == 512
    assert sum(sizes) == 2000


def test_errors_of_our_own_stop_everything():
    class Broken(Doubling):
        def preprocess(self, item):
            return None

    with pytest.raises(TypeError):
        predict(Broken(), [item_of([1])], Limits.fixed(1), Watchdog(60))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool])
def test_tensors_survive_the_trip_between_processes(dtype):
    tensor = (torch.randn(2, 5) * 3).to(dtype)
    got = decode(encode([{"a": tensor, "b": (1, 2), "c": [tensor.T]}]))
    assert got[0]["a"].dtype is dtype
    torch.testing.assert_close(got[0]["a"], tensor)
    torch.testing.assert_close(got[0]["c"][0], tensor.T)


def test_row_errors_survive_it_too():
    error = decode(encode(RowError("read", "ValueError", "what")))
    assert (error.stage, error.kind, str(error)) == ("read", "ValueError", "what")
