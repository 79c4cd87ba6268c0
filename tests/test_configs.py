"""The configs that the README shows: every one is valid, runs a known task and is named there."""

import pytest
from support.places import ROOT

from dray.pipelines.config import load_config
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.table import TASKS

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_is_valid_and_its_task_is_known(path):
    config = load_config(path)
    task = find_task(config.task)
    assert task.name in TASKS
    assert config.input.columns.keys() <= set(task.inputs)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_config_says_what_it_does_first(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_readme_names_the_config(path):
    assert f"configs/{path.name}" in (ROOT / "README.md").read_text()


def test_outputs_are_apart():
    outputs = [load_config(path).output.path for path in CONFIGS]
    assert len(set(outputs)) == len(outputs)
