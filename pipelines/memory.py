"""Memory of this process."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys
from pathlib import Path


def peak_bytes() -> int:
    """The peak memory of this process, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trim_memory() -> None:
    """Gives free memory back to the system, in about 10 ms.

    glibc keeps free memory below memory in use. With tensors of changing sizes that grows and grows.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def free_memory() -> float:
    """The bytes that this process may still allocate, limited by the machine and its container."""
    import psutil

    free = float(psutil.virtual_memory().available)
    with contextlib.suppress(OSError, ValueError):  # no such limit
        limit, used = (Path("/sys/fs/cgroup", name).read_text() for name in ("memory.max", "memory.current"))
        free = min(free, float(limit) - float(used))
    return free
