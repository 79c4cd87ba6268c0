"""The versions of dray and of what its results depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import dray

PACKAGES = ("ray", "torch", "transformers", "pyarrow")
TESTED = {"ray": ("2.59", "2.61"), "transformers": ("5.17", "5.25")}  # from and below; pyproject.toml has the same


def versions() -> dict[str, str]:
    """Name -> version of python, dray and PACKAGES, without importing any; what is not installed is left out."""
    found = {"python": platform.python_version(), "dray": dray.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def untested() -> Iterator[str]:
    """A sentence for each installed package whose version is outside of the range that dray was tested with."""
    from packaging.version import Version

    installed = versions()
    for name, (first, last) in TESTED.items():
        if name in installed and not Version(first) <= Version(installed[name]) < Version(last):
            yield f"{name} {installed[name]} is outside of the range that dray is tested with, >={first},<{last}"
