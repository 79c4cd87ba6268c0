"""The machine that a benchmark runs on, in a line."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def described() -> str:
    """For example: x86_64, AMD EPYC, 2 cores, no accelerator; torch ..."""
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())
    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no accelerator"
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "ray"))
    return f"{platform.machine()}, {model}, {os.cpu_count()} cores, {card}; {packages}; float32"
