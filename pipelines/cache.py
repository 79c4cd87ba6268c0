"""The folder on this node for fetched models and tuned batch sizes."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The folder of this node's models: in DRAY_CACHE, or in ~/.cache/dray."""
    return Path(os.environ.get("DRAY_CACHE") or "~/.cache/dray").expanduser() / "models"
