"""The machine that a benchmark runs on, in a line."""

import os
import platform
from importlib.metadata import version

from dray.pipelines.engine.tuning_cache import device_name


def described() -> str:
    """For example: x86_64, cpu AMD EPYC, 2 cores, no accelerator; torch ..."""
    import torch

    card = device_name("cuda") if torch.cuda.is_available() else "no accelerator"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ray"))
    return f"{platform.machine()}, {device_name('cpu')}, {os.cpu_count()} cores, {card}; {packages}; float32"
