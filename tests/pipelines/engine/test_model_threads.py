"""Several threads that run one model: the same answers as from one, errors included, and all of them at work."""

import itertools
import threading

import pytest
import torch
from support import builders, tiny_text
from support.doubling import Doubling, item_of
from support.loading import load

from dray.pipelines.batching.packing import pack
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Part
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.forward import divided, forward_parts
from dray.pipelines.engine.model_threads import MOST, ModelThreads
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

WATCH = Watchdog(60)
PLACES = {"input": {"path": "-"}, "output": {"path": "-"}}


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Meeting(Doubling):
    """Runs no batch before as many are there as are to run at once."""

    def __init__(self, count):
        super().__init__()
        self.barrier, self.threads = threading.Barrier(count), []

    def forward(self, parts):
        self.barrier.wait(timeout=30)
        self.threads.append(torch.get_num_threads())
        return super().forward(parts)


def test_all_lanes_run_at_once_each_on_its_share_of_the_cores():
    phases = Meeting(3)
    outcomes = predict(phases, [item_of([20] * 12)], Limits.budget(40, 1 / 16), WATCH, ModelThreads(phases, 3))
    assert outcomes[0].prediction == [40] * 12
    assert set(phases.threads) == {1}


def test_few_parts_are_divided_so_that_no_lane_is_idle():
    phases = Meeting(2)
    outcomes = predict(phases, [item_of([9, 9, 9, 9])], Limits.budget(40, 1 / 16), WATCH, ModelThreads(phases, 2))
    assert outcomes[0].prediction == [18] * 4
    assert phases.batches == [[9, 9]] * 2


def test_batches_that_cost_much_by_themselves_are_not_divided():
    """As those of texts that are generated: the one that no other runs beside gets all the cores."""
    phases = Doubling()
    predict(phases, [item_of([20] * 6)], Limits.fixed(2), WATCH, ModelThreads(phases, 2))
    assert sorted(phases.batches) == [[20, 20]] * 3
    phases = Meeting(1)
    predict(phases, [item_of([20] * 2)], Limits.fixed(2), WATCH, ModelThreads(phases, 2))
    assert phases.threads == [2]


def test_what_cannot_be_divided_gets_all_the_cores():
    phases = Meeting(1)
    model_threads = ModelThreads(phases, 2)
    one = predict(phases, [item_of([7])], Limits.budget(40, 1 / 16), WATCH, model_threads)
    assert (one[0].prediction, phases.threads, torch.get_num_threads()) == ([14], [2], 1)
    alone = [Part({"x": number}, cost=number, group=Sharing.ALONE) for number in (1, 2, 3)]
    results = forward_parts(phases, alone, Limits.budget(40, 1 / 16), WATCH, model_threads)
    assert ([output["y"] for output, _ in results], phases.threads) == ([2, 4, 6], [2] * 4)


@pytest.mark.parametrize(("threads", "count", "each"), [(1, 1, 1), (2, 2, 1), (4, 4, 1), (6, 3, 2), (10, 2, 5), (16, MOST, 4)])
def test_more_threads_than_lanes_are_shared_out(threads, count, each):
    torch.set_num_threads(threads)
    model_threads = ModelThreads(Doubling(), threads)
    assert (model_threads.count, torch.get_num_threads()) == (count, each)


def test_a_bad_part_fails_its_item_alone():
    phases = Doubling()
    items = [[1, 2], [3, 13, 4], [5], [666], [7, 666], [], *([n] for n in range(20, 60))]
    outcomes = predict(phases, [item_of(item) for item in items], Limits.budget(40, 1 / 16), WATCH, ModelThreads(phases, 2))
    expected = predict(Doubling(), [item_of(item) for item in items], Limits.budget(40, 1 / 16), WATCH)
    assert [outcome.prediction for outcome in outcomes] == [outcome.prediction for outcome in expected]
    assert [str(outcome.error) for outcome in outcomes] == [str(outcome.error) for outcome in expected]


def test_what_does_not_fit_is_made_smaller_in_every_lane():
    class Small(Doubling):
        def forward(self, parts):
            if len(parts) > 3:
                raise MemoryError
            return super().forward(parts)

    phases, limits = Small(), Limits.budget(80)
    (outcome,) = predict(phases, [item_of([10] * 64)], limits, WATCH, ModelThreads(phases, 2))
    assert outcome.prediction == [20] * 64
    assert outcome.meter.out_of_memory >= 1
    assert limits.elements <= 40


def test_a_part_that_never_fits_is_counted_once():
    class Full(Doubling):
        def forward(self, parts):
            raise MemoryError

    outcomes = predict(Full(), [item_of([1]), item_of([1])], Limits.fixed(1), WATCH, ModelThreads(Full(), 2))
    assert [outcome.meter.out_of_memory for outcome in outcomes] == [1, 1]
    assert all(outcome.error for outcome in outcomes)


def test_what_fits_by_itself_does_not_fail_for_want_of_what_its_neighbour_holds():
    class Full(Doubling):
        def __init__(self):
            super().__init__()
            self.running = 0

        def forward(self, parts):
            self.running += 1
            threading.Event().wait(0.05)
            try:
                if self.running > 1:
                    raise MemoryError
                return super().forward(parts)
            finally:
                self.running -= 1

    phases = Full()
    outcomes = predict(phases, [item_of([number]) for number in range(1, 9)], Limits.fixed(1), WATCH, ModelThreads(phases, 2))
    assert [outcome.prediction for outcome in outcomes] == [[2 * number] for number in range(1, 9)]


def test_a_batch_on_some_of_the_cores_may_take_as_much_longer():
    class Noting(Watchdog):
        def on(self, stage, keys, times=1):
            if stage == "forward":
                allowed.append(times)
            return super().on(stage, keys, times)

    allowed, phases = [], Doubling()
    model_threads = ModelThreads(phases, 2)
    predict(phases, [item_of([9] * 8)], Limits.budget(40, 1 / 16), Noting(60), model_threads)
    predict(phases, [item_of([9])], Limits.budget(40, 1 / 16), Noting(60), model_threads)
    assert set(allowed[:-1]) == {2}
    assert allowed[-1] == 1


def test_all_lanes_have_ended_when_an_error_is_raised():
    class Uneven(Doubling):
        def forward(self, parts):
            if parts[0].cost == 9:
                raise SystemExit("out")
            threading.Event().wait(0.2)
            return super().forward(parts)

    phases = Uneven()
    with pytest.raises(SystemExit):
        predict(phases, [item_of([9]), item_of([8])], Limits.fixed(1), WATCH, ModelThreads(phases, 2))
    assert phases.batches == [[8]]


def test_what_is_no_rows_fault_is_raised():
    class Broken(Doubling):
        def forward(self, parts):
            raise SystemExit("out")

    phases = Broken()
    with pytest.raises(SystemExit, match="out"):
        predict(phases, [item_of([1, 2])], Limits.budget(40, 1 / 16), WATCH, ModelThreads(phases, 2))


def test_a_model_that_cannot_be_copied_has_one_lane_with_all_threads():
    class Locked(Doubling):
        def copy_with_shared_weights(self):
            raise TypeError("cannot pickle '_thread.lock' object")

    torch.set_num_threads(2)
    model_threads = ModelThreads(Locked(), 2)
    assert (model_threads.count, torch.get_num_threads()) == (1, 2)


def test_time_is_counted_in_lanes():
    """So that what the model waited is what is left of their time."""

    class Slow(Doubling):
        def forward(self, parts):
            threading.Event().wait(0.05)
            return super().forward(parts)

    phases = Slow()
    model_threads = ModelThreads(phases, 2)
    side_by_side = predict(phases, [item_of([1, 2])], Limits.budget(2), WATCH, model_threads)[0].meter.forward_s
    by_itself = predict(phases, [item_of([1])], Limits.budget(2), WATCH, model_threads)[0].meter.forward_s
    assert side_by_side >= 0.1
    assert by_itself >= 0.1


@pytest.mark.parametrize(("sizes", "count"), [([5, 3, 8], 2), ([1], 4), ([9], 4), ([1, 1, 1, 7], 3), ([2] * 12, 5)])
def test_divided_batches_are_the_same_parts_in_the_same_order(sizes, count):
    parts = [Part({}, cost=cost) for cost in range(sum(sizes), 0, -1)]
    ends = [0, *itertools.accumulate(sizes)]
    batches = [list(range(start, end)) for start, end in itertools.pairwise(ends)]
    found = divided(batches, parts, count)
    assert [index for batch in found for index in batch] == list(range(len(parts)))
    assert len(found) % count == 0 or all(len(batch) == 1 for batch in found)
    assert all(found)


TEXTS = [Item({"text": " ".join(["water"] * n)}, key=n) for n in range(1, 40)]


def test_a_twin_holds_no_weights_of_its_own(tmp_path):
    phases = load(builders.text_classifier(tmp_path / "model", 2, 32), "text-classification")
    copy_with_shared_weights = phases.copy_with_shared_weights()
    ours, its = dict(phases.pipe.model.named_parameters()), dict(copy_with_shared_weights.pipe.model.named_parameters())
    assert {name: id(weight) for name, weight in ours.items()} == {name: id(weight) for name, weight in its.items()}
    assert not {id(module) for module in phases.pipe.model.modules()} & {
        id(module) for module in copy_with_shared_weights.pipe.model.modules()
    }
    assert copy_with_shared_weights.pipe.model.config is not phases.pipe.model.config


def test_texts_give_the_same_in_lanes(tmp_path):
    phases = load(builders.text_classifier(tmp_path / "model", 2, 32), "text-classification", {"top_k": None})
    model_threads = ModelThreads(phases, 3)
    assert model_threads.count == 3
    got = predict(phases, TEXTS, Limits.budget(64), WATCH, model_threads)
    expected = predict(phases, TEXTS, Limits.fixed(1), WATCH)
    for one, other in zip(got, expected, strict=True):
        assert [each["label"] for each in one.prediction] == [each["label"] for each in other.prediction]
        assert [each["score"] for each in one.prediction] == pytest.approx([each["score"] for each in other.prediction])


def test_sampled_rows_draw_their_own_numbers_in_every_lane(tmp_path):
    parameters = {"max_new_tokens": 12, "do_sample": True, "return_full_text": False}
    phases = load(tiny_text.chat_model(tmp_path / "model"), "text-generation", parameters)
    got = predict(phases, TEXTS, Limits.fixed(4), WATCH, ModelThreads(phases, 3))
    expected = predict(phases, TEXTS, Limits.fixed(4), WATCH)
    assert [one.prediction for one in got] == [other.prediction for other in expected]
    assert len({str(one.prediction) for one in got}) > len(TEXTS) / 2


def test_who_keeps_hold_of_the_model_keeps_it_to_one_thread(tmp_path):
    phases = load(builders.text_classifier(tmp_path / "model", 2, 32), "text-classification")
    assert phases.is_shareable
    phases.pipe.model.hf_device_map = {"": "disk"}
    assert not phases.is_shareable
    del phases.pipe.model.hf_device_map
    type(phases.pipe.model).__module__, before = "transformers_modules.own", type(phases.pipe.model).__module__
    try:
        assert ModelThreads(phases, 2).count == 1
    finally:
        type(phases.pipe.model).__module__ = before


def test_packing_knows_nothing_of_lanes():
    parts = [Part({}, cost=cost) for cost in (5, 9, 1)]
    assert divided(pack(parts, Limits.budget(1000)), parts, 1) == pack(parts, Limits.budget(1000))
