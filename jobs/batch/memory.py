"""Memory of the process that asks."""

from __future__ import annotations

import contextlib
import ctypes
import resource
import sys


def peak_bytes() -> int:
    """The most memory this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def trim_memory() -> None:
    """Gives free memory back to the system, in some 10 ms.

    glibc keeps it where something in use lies above: of tensors of ever other sizes more and more.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
