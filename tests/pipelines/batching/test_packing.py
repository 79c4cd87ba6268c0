import itertools

import numpy as np
import pytest

from dray.pipelines.batching.packing import bisect, full_batches, pack
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Part


def parts(costs, group=None):
    return [Part({}, int(cost), group=group) for cost in costs]


def test_every_part_is_in_one_batch_and_batches_keep_to_the_budget():
    costs = np.random.default_rng(0).lognormal(4, 1, 500).astype(int) + 1
    batches = pack(parts(costs), Limits.budget(1000))
    assert sorted(index for batch in batches for index in batch) == list(range(500))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(costs[batch]) <= 1000


def test_packing_pads_little():
    costs = np.random.default_rng(0).lognormal(np.log(39), 0.8, 2048).astype(int) + 1
    batches = pack(parts(costs), Limits.budget(1024))
    padded = sum(len(batch) * max(costs[batch]) for batch in batches)
    assert costs.sum() / padded > 0.95


@pytest.mark.parametrize("overhead", [0.01, 0.1, 1.0])
def test_no_other_cut_costs_less(overhead):
    rng = np.random.default_rng(1)
    for _ in range(20):
        costs, limits = rng.integers(1, 100, 9), Limits.budget(150, overhead)

        def cost(batch, costs=costs, limits=limits):
            longest = int(max(costs[batch]))
            return (
                longest * (limits.overhead * limits.capacity(longest) + len(batch))
                if len(batch) <= limits.capacity(longest)
                else np.inf
            )

        order = np.argsort(-costs)
        cuts = ([*ends, 9] for count in range(9) for ends in itertools.combinations(range(1, 9), count))
        least = min(sum(cost(order[start:end]) for start, end in itertools.pairwise([0, *ends])) for ends in cuts)
        assert sum(cost(batch) for batch in pack(parts(costs), limits)) == pytest.approx(least)


def test_a_batch_is_not_filled_with_what_is_much_shorter_where_batches_cost_little():
    costs = [500, *[10] * 40]
    assert [len(batch) for batch in pack(parts(costs), Limits.budget(1024, 1 / 16))] == [1, 40]
    assert [len(batch) for batch in pack(parts(costs), Limits.fixed(2))] == [2] * 20 + [1]


def test_the_fewest_batches_where_each_costs_as_much_as_a_full_one():
    assert len(pack(parts([100, 100, 50, 10, 10, 10]), Limits.budget(300))) == 2


def test_a_fixed_batch_size_counts_parts():
    assert [len(batch) for batch in pack(parts([5, 1, 3, 9, 2]), Limits.fixed(2))] == [2, 2, 1]


def test_groups_do_not_mix():
    mixed = parts([4, 4, 4], "a") + parts([4, 4], "b")
    assert sorted(map(sorted, pack(mixed, Limits.fixed(10)))) == [[0, 1, 2], [3, 4]]


@pytest.mark.parametrize("culprits", [{3}, {0, 63}, {10, 11, 40}])
def test_bisecting_finds_the_culprits_in_few_runs(culprits):
    runs, good, bad = [], set(), set()

    def run(batch):
        runs.append(len(batch))
        if culprits & set(batch):
            raise ValueError("poison")
        good.update(batch)

    bisect(range(64), run, lambda index, error: bad.add(index), lambda batch: pytest.fail("not out of memory"))
    assert bad == culprits
    assert good == set(range(64)) - culprits
    assert len(runs) <= 1 + 2 * len(culprits) * 6


def test_out_of_memory_lowers_the_limits_and_loses_nothing():
    limits, done = Limits.budget(64 * 10), []

    def run(batch):
        if len(batch) > 5:
            raise MemoryError
        done.extend(batch)

    queue = parts([10] * 64)
    for batch in pack(queue, limits):
        bisect(batch, run, lambda index, error: pytest.fail("no row is to blame"), lambda b: limits.lower(len(b), 10))
    assert sorted(done) == list(range(64))
    assert limits.capacity(10) <= 5
    assert all(len(batch) <= 5 for batch in pack(queue, limits))


def test_a_part_that_does_not_fit_alone_lowers_nothing():
    limits = Limits.budget(1000)
    limits.lower(1, 900)
    assert limits.capacity(10) == 100
    limits.lower(2, 400)
    assert (limits.capacity(10), limits.capacity(400)) == (40, 1)


def test_parts_without_company_wait_and_those_that_fill_a_batch_do_not():
    assert full_batches(parts([100, 100, 99, 98, 50, 12, 3]), Limits.fixed(4)) == {0, 1, 2, 3}


def test_something_always_runs():
    """Were all to wait, the model would idle: the batch with the least padding goes first."""
    assert full_batches(parts([400, 100, 90, 5]), Limits.budget(512)) == {0}
    assert full_batches(parts([100]), Limits.budget(512)) == {0}


def test_parts_that_are_run_alone_wait_for_nobody():
    assert full_batches(parts([7, 300], Sharing.ALONE), Limits.budget(512)) == {0, 1}
