"""Memory that is given back."""

import ctypes

import psutil
import pytest

from dray.pipelines.memory import trim_memory


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
