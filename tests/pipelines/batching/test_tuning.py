"""The batch budget on a simulated machine: latency and memory as functions of the batch."""

import math

import pytest

from dray.pipelines.batching import tuning
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Limits, Part


def parts(*costs: int) -> list[Part]:
    return [Part({}, cost, key=index) for index, cost in enumerate(costs)]


class Machine:
    """A batch takes `fixed` seconds, or longer once `free` elements are exceeded; more than `memory` do not fit."""

    def __init__(self, fixed: float, free: int, memory: float = math.inf) -> None:
        self.fixed, self.free, self.memory, self.batches = fixed, free, memory, []

    def __call__(self, batch: list[Part]) -> float:
        elements = len(batch) * max(part.cost for part in batch)
        self.batches.append(elements)
        if elements > self.memory:
            raise MemoryError
        return self.fixed * max(1.0, elements / self.free)


def test_the_knee_is_found_and_not_the_largest_that_fits():
    machine = Machine(fixed=0.1, free=4096)
    (bucket,) = tuning.tune(parts(*[64] * 100), machine, 60)
    assert bucket.elements == 4096
    assert max(machine.batches) <= 4 * 4096


def test_what_does_not_fit_is_never_taken_and_nothing_larger_is_tried():
    machine = Machine(fixed=0.1, free=1 << 20, memory=5000)
    long, short = tuning.tune(parts(*[512] * 50, *[100] * 300), machine, 60)
    assert (long.longest, short.longest) == (512, 100)
    assert long.elements == 4096
    assert short.elements == 3200
    assert [elements for elements in machine.batches if elements > 5000] == [8192, 6400]


def test_longest_first():
    machine = Machine(fixed=0.1, free=1)
    tuning.tune(parts(*range(10, 500, 7)), machine, 60)
    assert machine.batches[0] == 493


def test_what_a_batch_costs_beside_its_elements_is_found():
    def linear(batch: list[Part]) -> float:
        return 0.06 + len(batch) * 0.064

    found = tuning.limits(tuning.tune(parts(*[64] * 100), linear, 60), Limits.budget(512))
    assert found.overhead == pytest.approx(0.06 / (found.elements * 0.001))
    assert tuning.limits(tuning.tune(parts(*[64] * 100), Machine(0.1, 4096), 60), Limits.budget(512)).overhead == 1.0


def test_each_length_has_its_own_batch():
    def run(batch: list[Part]) -> float:  # what is long gains nothing from company
        return len(batch) * 1.0 if batch[0].cost > 200 else 1.0 + len(batch) * 0.01

    buckets = tuning.tune(parts(*[400] * 40, *[40] * 400), run, 60)
    found = tuning.limits(buckets, Limits.budget(512))
    assert found.capacity(400) == 1
    assert found.capacity(40) >= 64
    assert found.capacity(300) == 1
    assert found.capacity(1000) == 1


def test_few_of_a_length_go_with_the_next_longer_ones():
    lengths = [[part.cost for part in bucket] for bucket in tuning.by_length(parts(*[500] * 20, 3, 2, 1))]
    assert lengths == [[500] * 20 + [3, 2, 1]]


def test_parts_that_share_no_batch_are_left_alone():
    alone = [Part({}, 64, group=Sharing.ALONE)] * 4
    assert tuning.tune(alone, Machine(1, 1), 60) == []
    assert tuning.limits([], Limits.budget(512)) == Limits.budget(512)


def test_what_is_not_done_in_time_gets_no_answer():
    """A batch of one, because there was no time for another, would be remembered as the best."""
    assert tuning.tune(parts(64, 64, 64), Machine(0.1, 4096), 0) == []


def test_lengths_that_were_done_in_time_are_kept(monkeypatch):
    machine, now = Machine(0.1, 4096), [0.0]
    monkeypatch.setattr(tuning.time, "monotonic", lambda: now[0])

    def run(batch: list[Part]) -> float:
        now[0] += 0.1 if batch[0].cost > 100 else 10
        return machine(batch)

    (bucket,) = tuning.tune(parts(*[512] * 50, *[100] * 300), run, 20)
    assert (bucket.longest, bucket.elements) == (512, 4096)


def test_running_out_of_memory_later_lowers_what_was_found():
    found = tuning.limits([tuning.Bucket(512, 8192), tuning.Bucket(64, 4096)], Limits.budget(512))
    assert (found.capacity(512), found.capacity(64)) == (16, 64)
    found.lower(16, 512)
    assert (found.capacity(512), found.capacity(64)) == (8, 64)
    found.lower(64, 64)
    assert (found.capacity(512), found.capacity(64)) == (4, 32)


def test_other_errors_are_not_hidden():
    def run(batch: list[Part]) -> float:
        raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        tuning.tune(parts(1, 2), run, 60)
