"""Sets of row keys as intervals behave as sets of integers do."""

import numpy as np
import pytest

from dray.jobs.keys import KeySet, first_key, keys_between

RANDOM = np.random.default_rng(0)


def some(count: int, below: int = 60) -> set[int]:
    return set(RANDOM.integers(0, below, count).tolist())


def members(keys: KeySet, below: int = 80) -> set[int]:
    assert (keys.starts < keys.stops).all()
    assert (keys.stops[:-1] < keys.starts[1:]).all()  # neither overlapping nor touching
    held = np.flatnonzero(keys.holds(np.arange(below, dtype=np.uint64))).tolist()
    assert keys.keys().tolist() == held
    return set(held)


@pytest.mark.parametrize("count", [0, 1, 2, 10, 40, 200])
def test_as_sets_of_integers(count):
    for _ in range(50):
        one, other = some(count), some(count // 2)
        first, second = (KeySet.of(np.array(list(keys), np.uint64)) for keys in (one, other))
        assert members(first) == one
        assert len(first) == len(one)
        assert members(KeySet.union([first, second])) == one | other
        assert members(first.without(second)) == one - other
        assert members(first.common(second)) == one & other
        start, stop = sorted(RANDOM.integers(0, 70, 2).tolist())
        counts = first.counts(np.array([start, 0], np.uint64), np.array([stop, stop], np.uint64))
        assert counts.tolist() == [len([key for key in one if least <= key < stop]) for least in (start, 0)]
        assert members(KeySet.between([(start, stop), (stop, stop + 3)])) == set(range(start, stop + 3))


def test_keys_of_a_file_follow_each_other_and_do_not_wrap():
    start = first_key("s3://bucket/a.parquet")
    assert 1 <= start < 1 << 63
    assert start != first_key("s3://bucket/b.parquet")
    assert keys_between(start, start + 3).tolist() == [start, start + 1, start + 2]


def test_ten_million_finished_rows_take_little_memory():
    """Rows finish in blocks, in any order; here every hundredth block is still missing."""
    blocks = RANDOM.permutation(10_000)[:9_900]
    start = first_key("a")
    finished = KeySet.union(KeySet.of(keys_between(start + 1000 * int(i), start + 1000 * int(i) + 1000)) for i in blocks)
    assert len(finished) == 9_900_000
    assert finished.starts.nbytes + finished.stops.nbytes < 16 * 200
