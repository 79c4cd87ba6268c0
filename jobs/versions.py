"""The versions of dray and of what its results depend on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import dray

PACKAGES = ("ray", "torch", "transformers", "pyarrow")


def versions() -> dict[str, str]:
    """Name -> version of python, dray and PACKAGES, without importing any; what is not installed is left out."""
    found = {"python": platform.python_version(), "dray": dray.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
