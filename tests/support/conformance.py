"""Every task against `transformers.pipeline(...)(item)`: run as a script it prints the whole matrix."""

import contextlib
import copy
import functools
import importlib.machinery
import importlib.util
import logging
import os
import sys
import tempfile
import types
import warnings
from pathlib import Path
from unittest import mock

import torch
import transformers
from packaging.version import Version
from transformers import pipeline
from transformers.pipelines import SUPPORTED_TASKS

from dray.jobs.batch.gather import Gather
from dray.jobs.batch.stages import Forward, Fused, Postprocess, Preprocess
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT, KEY
from dray.pipelines.config import parse_config
from dray.pipelines.errors import first_line
from support import arrow, catalogue
from support.comparing import differences
from support.loading import load_phases, model_of

FAULTLESS = Version("5.23")  # from which on every case runs in the library itself
SETTINGS = [(layout, batch) for layout in ("fused", "staged") for batch in (1, 3, "auto")]


class Reference:
    """Each case's model, items, and what the pipeline gives for them one by one; made when first asked for."""

    def __init__(self, root: Path) -> None:
        self._root, self._folders = root, {}

    @functools.cache  # noqa: B019  # lives as long as the tests
    def of(self, name: str) -> tuple[str, list[dict[str, object]], list[object]]:
        case = catalogue.CASES[name]
        if case.build not in self._folders:
            self._folders[case.build] = case.build(self._root / name)
        folder = self._folders[case.build]
        pipe = pipeline(case.task, model=folder)
        answers = [case.call(pipe, copy.deepcopy(item), copy.deepcopy(case.parameters)) for item in case.items()]
        return folder, case.items(), [arrow.expected(case.task, answer) for answer in answers]


def predicted(
    name: str, folder: str, items: list[dict[str, object]], layout: str, batch: int | str, **engine: object
) -> arrow.pa.Table:
    """The items through the operators, without Ray."""
    case = catalogue.CASES[name]
    raw = {"task": case.task, "model": folder, "parameters": case.parameters, "engine": {"batch": batch, **engine}}
    config = parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})
    table = arrow.table_of(items)
    columns = {column.removeprefix(ARGUMENT): table[column].type for column in table.column_names}
    threads = 2 if layout == "fused" else 1  # a lane for each, and the caller's own thread
    worker = WorkerSpec(model_of(config), load_phases(config, weights=False).schema(columns), threads, accelerator=False)
    return Fused(worker)(table) if layout == "fused" else staged(worker, table)


def staged(worker: WorkerSpec, table: arrow.pa.Table) -> arrow.pa.Table:
    """The operators of the staged layout, one after the other."""
    gathered = Gather()(Forward(worker)(arrow.pa.concat_tables(Preprocess(worker)(table))))
    return Postprocess(worker)(gathered).sort_by(KEY)


@contextlib.contextmanager
def stand_in_nms():
    """Where torchvision is missing, the one function that mask generation wants of it."""
    if importlib.util.find_spec("torchvision"):
        yield
        return
    from transformers.utils import import_utils

    modules = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes")}
    for name, module in modules.items():
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    modules["torchvision.ops.boxes"].batched_nms = batched_nms
    found = {"torchvision": (lambda: True, "")}
    sys.modules.update(modules)
    try:
        with mock.patch.dict(import_utils.BACKENDS_MAPPING, found):
            yield
    finally:
        for name in modules:  # these alone: whoever restores all takes out modules that were imported meanwhile
            del sys.modules[name]


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


def outcome(reference: Reference, name: str, layout: str, batch: int | str) -> str:
    """One cell of the matrix: `equal`, how many rows differ, or why it cannot run."""
    folder, items, expected = reference.of(name)
    got = predicted(name, folder, items, layout, batch)
    rows = zip(got["prediction"].to_pylist(), got["error"].to_pylist(), expected, strict=True)
    different = sum(bool(error or differences(prediction, answer)) for prediction, error, answer in rows)
    return f"{different} of {len(items)} differ" if different else "equal"


def library_fault(reference: Reference, name: str) -> str | None:
    """Why the library's own pipeline fails on a case, so that there is nothing to compare; None where it does not."""
    try:
        reference.of(name)
    except Exception as error:
        return f"the library's own pipeline fails: {type(error).__name__}: {first_line(error)}"
    return None


def main() -> int:
    """Prints the matrix; 1 where anything differs."""
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    heads = [f"{layout} {batch}" for layout, batch in SETTINGS]
    print(f"transformers {transformers.__version__}, torch {torch.__version__}")
    print(f"{'case':<46}{'items':>6}  " + "".join(f"{head:<13}" for head in heads))
    failures = 0
    with tempfile.TemporaryDirectory() as folder, stand_in_nms():
        reference = Reference(Path(folder))
        for task in SUPPORTED_TASKS:
            for name, case in catalogue.CASES.items():
                if case.task != task:
                    continue
                if case.unavailable:
                    print(f"{name:<46}{'':>6}  {case.unavailable}")
                    continue
                fault = library_fault(reference, name)
                if fault:
                    print(f"{name:<46}{'':>6}  {fault}", flush=True)
                    failures += Version(transformers.__version__) >= FAULTLESS
                    continue
                cells = [outcome(reference, name, layout, batch) for layout, batch in SETTINGS]
                print(f"{name:<46}{len(case.items()):>6}  " + "".join(f"{cell:<13}" for cell in cells), flush=True)
                failures += sum(cell != "equal" for cell in cells)
    if not importlib.util.find_spec("torchvision"):
        print("\nmask-generation needs torchvision, which is not installed: compared with a stand-in for its batched_nms")
    return int(failures > 0)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
