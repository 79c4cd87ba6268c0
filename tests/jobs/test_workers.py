"""What every actor with a pipeline has."""

import ctypes

import psutil
import pytest

from jobs import workers
from jobs.workers import Stopwatch, trim_memory
from pipelines.lanes import Lanes


def test_waiting_is_what_lanes_do_not_run(monkeypatch):
    now, lanes = [0.0], Lanes(phases=None)
    monkeypatch.setattr(workers.time, "perf_counter", lambda: now[0])
    stopwatch = Stopwatch(lanes)
    lanes.ran(100.0)  # before the first block
    stopwatch.start()
    now[0] = 10.0
    lanes.ran(8.0)
    assert stopwatch.waited() == 2.0
    stopwatch.start()
    now[0] = 15.0  # two blocks side by side, in one batch of which the first ends
    assert stopwatch.waited() == 5.0
    now[0] = 16.0
    lanes.ran(6.0)
    assert stopwatch.waited() == 0.0
    now[0] = 20.0
    assert stopwatch.waited() == 0.0  # that was counted too early
    now[0] = 22.0
    assert stopwatch.waited() == 1.0


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="this C library has no malloc_trim")
def test_free_memory_between_what_is_in_use_goes_back():
    libc, process = ctypes.CDLL(None), psutil.Process()
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size, count = 100_000, 2_000  # below what glibc maps by itself; 200 MB
    blocks = [libc.malloc(size) for _ in range(count)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[:-1]:  # the last one is in the way of the others
        libc.free(block)
    before = process.memory_info().rss
    trim_memory()
    assert before - process.memory_info().rss > size * count / 2
    libc.free(blocks[-1])


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    trim_memory()
