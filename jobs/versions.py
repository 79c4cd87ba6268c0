"""The versions of dray and of the packages that its results depend on."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import dray

PACKAGES = ("ray", "torch", "transformers", "pyarrow")
TESTED = {
    "ray": ("2.59", "2.61"),
    "transformers": ("5.17", "5.25"),
}  # from the first to below the second; also in pyproject.toml


def versions() -> dict[str, str]:
    """Name -> version of python, dray and PACKAGES, without importing them; packages that are not installed are left out."""
    installed = {"python": platform.python_version(), "dray": dray.__version__}
    for name in PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def untested() -> Iterator[str]:
    """Yields a sentence for each installed package whose version is outside the range that dray is tested with."""
    from packaging.version import Version

    installed = versions()
    for name, (first, last) in TESTED.items():
        if name in installed and not Version(first) <= Version(installed[name]) < Version(last):
            yield f"{name} {installed[name]} is outside of the range that dray is tested with, >={first},<{last}"
