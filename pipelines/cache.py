"""The folder of this node where fetched models and tuned batch sizes are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where this node keeps models: under DRAY_CACHE, or in the home folder."""
    return Path(os.environ.get("DRAY_CACHE") or "~/.cache/dray").expanduser() / "models"
