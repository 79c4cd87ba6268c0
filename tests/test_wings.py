"""Which package may import what, and that the command line stays instant."""

import ast
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.places import ROOT

HEAVY = {"torch", "transformers", "ray"}


def imports(path: Path, nested: bool) -> set[str]:
    """Top-level names of imported packages; with `nested`, also those inside functions."""
    tree = ast.parse(path.read_text())
    nodes = ast.walk(tree) if nested else tree.body
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_pipelines_knows_nothing_of_ray():
    for path in (ROOT / "pipelines").glob("*.py"):
        assert not imports(path, nested=True) & {"ray", "jobs"}, path


def test_torch_and_transformers_load_only_inside_functions():
    for path in [*(ROOT / "pipelines").glob("*.py"), *(ROOT / "jobs").glob("*.py")]:
        heavy = HEAVY if path.parent.name == "pipelines" else {"torch", "transformers"}
        assert not imports(path, nested=False) & heavy, path


def test_jobs_touches_models_only_through_pipelines():
    allowed = {"workers.py"}  # sets torch's threads
    for path in (ROOT / "jobs").glob("*.py"):
        found = imports(path, nested=True) & {"torch", "transformers"}
        assert not found or (path.name in allowed and found == {"torch"}), path


def test_help_is_instant_and_loads_nothing_heavy():
    code = "import sys, dray.jobs.cli; dray.jobs.cli._parser().format_help(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not set(loaded.split()) & {*HEAVY, "pyarrow", "numpy", "pydantic"}


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["submit", "--help"]])
def test_help_says_what_to_type(arguments):
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "dray.jobs.cli", *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "usage: dray" in done.stdout
    assert time.monotonic() - started < 10  # a loaded machine; alone it is well under half a second
