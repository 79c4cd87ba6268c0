"""Every task gives what `transformers.pipeline(...)(item)` gives, one by one, for every layout and batch size."""

import copy
import functools
import importlib
import os
import sys
import types
import warnings

import arrow
import catalogue
import pytest
import torch
from comparing import differences
from transformers import pipeline
from transformers.pipelines import SUPPORTED_TASKS

from jobs.operators import Forward, Fused, Gather, Postprocess, Preprocess, Worker
from jobs.rows import ARGUMENT, KEY
from pipelines.config import parse_config
from pipelines.loading import load_phases
from pipelines.tasks import TASKS

warnings.simplefilter("ignore")

WHOLE = bool(os.environ.get("DRAY_CONFORMANCE"))  # `make conformance`: every layout and batch size
SETTINGS = [(layout, batch) for layout in ("fused", "staged") for batch in (1, 3, "auto")]
QUICK = [("fused", 3), ("staged", "auto")]


def test_every_task_is_in_the_table():
    assert TASKS.keys() == SUPPORTED_TASKS.keys() == {case.task for case in catalogue.CASES.values()}


@pytest.fixture(scope="session")
def catalogued(tmp_path_factory):
    """Name of a case -> (its model's folder, items, what the pipeline gives for each)."""
    root, folders = tmp_path_factory.mktemp("catalogue"), {}

    @functools.cache
    def made(name):
        case = catalogue.CASES[name]
        if case.build not in folders:
            folders[case.build] = case.build(root / name)
        folder = folders[case.build]
        pipe = pipeline(case.task, model=folder)
        answers = [case.call(pipe, copy.deepcopy(item), copy.deepcopy(case.parameters)) for item in case.items()]
        return folder, case.items(), [arrow.expected(case.task, answer) for answer in answers]

    return made


@pytest.fixture
def stand_in_nms(monkeypatch):
    """Where torchvision is missing, the one function that mask generation wants of it."""
    if importlib.util.find_spec("torchvision"):
        return
    from transformers.utils import import_utils

    for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes"):
        module = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        monkeypatch.setitem(sys.modules, name, module)
    module.batched_nms = batched_nms
    monkeypatch.setitem(import_utils.BACKENDS_MAPPING, "torchvision", (lambda: True, ""))


def batched_nms(boxes, scores, idxs, iou_threshold):
    """Positions of the boxes that no better one of equal `idxs` overlaps by more than the threshold, best first."""
    corner = torch.maximum(boxes[:, None, :2], boxes[None, :, :2]), torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    common = (corner[1] - corner[0]).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    overlap = common / (area[:, None] + area[None, :] - common)
    kept = []
    for index in scores.argsort(descending=True).tolist():
        if all(idxs[index] != idxs[other] or overlap[index, other] <= iou_threshold for other in kept):
            kept.append(index)
    return torch.tensor(kept)


@pytest.mark.parametrize(("layout", "batch"), SETTINGS if WHOLE else QUICK)
@pytest.mark.parametrize("name", catalogue.CASES)
def test_conformance(catalogued, stand_in_nms, name, layout, batch):
    case = catalogue.CASES[name]
    if case.unavailable:
        pytest.skip(case.unavailable)
    folder, items, expected = catalogued(name)
    got = predicted(case, folder, items, layout, batch)
    assert [error["message"] for error in got["error"].to_pylist() if error] == []
    assert len(items) >= 5
    assert not differences(got["prediction"].to_pylist(), expected)


def predicted(case, folder, items, layout, batch):
    """The items through the operators, without Ray."""
    raw = {"task": case.task, "model": folder, "parameters": case.parameters, "engine": {"batch": batch}}
    config = parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})
    table = arrow.table_of(items)
    schema = load_phases(config, weights=False).schema(
        {name.removeprefix(ARGUMENT): table[name].type for name in table.column_names}
    )
    worker = Worker(config, schema, threads=1, accelerator=False)
    if layout == "fused":
        return Fused(worker)(table)
    gathered = Gather()(Forward(worker)(arrow.pa.concat_tables(Preprocess(worker)(table))))
    return Postprocess(worker)(gathered).sort_by(KEY)
