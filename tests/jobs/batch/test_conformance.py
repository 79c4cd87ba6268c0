"""Every task gives what transformers' pipeline gives: two settings of the matrix that `make conformance` prints whole."""

import pytest
from support import conformance
from support.catalogue import CASES
from support.comparing import differences
from transformers.pipelines import SUPPORTED_TASKS

from dray.pipelines.errors import ConfigError
from dray.pipelines.phases.phases import Phases
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.table import TASKS

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with conformance.stand_in_nms():
        yield conformance.Reference(tmp_path_factory.mktemp("catalogue"))


def test_every_task_is_in_the_table():
    assert TASKS.keys() == SUPPORTED_TASKS.keys() == {case.task for case in CASES.values()}


# Cases whose items never share a batch: their pipelines cannot, or every item has labels of its own.
ALONE = {name for name in CASES if name.startswith(("text-to-audio", "table-question", "decision", "mask-gen", "keypoint"))}
ALONE |= {"zero-shot-audio-classification-own", "zero-shot-image-classification-own"}


@pytest.mark.parametrize(("layout", "batch"), [("fused", 3), ("staged", "auto")])
@pytest.mark.parametrize("name", CASES)
def test_conformance(reference, name, layout, batch, monkeypatch):
    if CASES[name].unavailable:
        pytest.skip(CASES[name].unavailable)
    sizes, forward = [], Phases.forward
    monkeypatch.setattr(Phases, "forward", lambda phases, parts: sizes.append(len(parts)) or forward(phases, parts))
    folder, items, expected = reference.of(name)
    got = conformance.predicted(name, folder, items, layout, batch)
    assert [error["message"] for error in got["error"].to_pylist() if error] == []
    assert len(items) >= 5
    assert not differences(got["prediction"].to_pylist(), expected)
    if batch == 3:
        assert (max(sizes) == 1) == (name in ALONE)


def test_a_task_that_lacks_a_package_says_which(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="mask-generation needs torchvision, which is not installed; pip install torchvision"):
        find_task("mask-generation")


@pytest.mark.parametrize("task", ["question-answering", "summarization", "translation_en_to_fr", "text2text-generation"])
def test_removed_tasks_name_the_way_to_go(task):
    with pytest.raises(ConfigError, match=f"transformers has removed {task}; use text-generation with a chat model"):
        find_task(task)


@pytest.mark.parametrize("task", ["visual-question-answering", "vqa", "image-to-text"])
def test_visual_questions_go_to_image_text_to_text(task):
    with pytest.raises(ConfigError, match=f"removed {task}; use image-text-to-text with a vision-language model"):
        find_task(task)


@pytest.mark.parametrize(("alias", "task"), [("ner", "token-classification"), ("text-to-speech", "text-to-audio")])
def test_aliases(alias, task):
    assert find_task(alias).name == task
