"""Fixtures that are made once: tiny models, and one Ray for all tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import builders
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("AWS_ACCESS_KEY_ID", "testing")
os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "testing")

ROOT = Path(__file__).parent.parent


class Models:
    """Folders of tiny models, each built when first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __getattr__(self, name: str) -> str:
        folder = self._folder / name
        if not (folder / "config.json").exists():
            kind, _, variant = name.partition("__")
            getattr(builders, kind)(folder, *([variant] if variant else []))
        return str(folder)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    return Models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def bundled() -> str:
    """The folder of the bundled speech model."""
    return str(ROOT / "demo" / "model")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Two logical CPUs, whatever the machine has."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
