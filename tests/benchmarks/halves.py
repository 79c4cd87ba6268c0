"""`make bench`: float32 as torch multiplies it, as dray does, and bfloat16, over the same batches. Prints Markdown."""

from __future__ import annotations

import copy
import tempfile
import time
from pathlib import Path

import torch
from contenders import Case
from torch import nn
from workloads import WORKLOADS, read, write

from dray.pipelines.batching.packing import pack
from dray.pipelines.engine.block import Outcome, predict
from dray.pipelines.engine.precision import choose, difference
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.phases import Phases

SCALES = {"texts": 0.05, "embeddings": 0.05, "images": 0.05, "ctc": 0.05, "generation": 0.05}
TURNS, SAMPLE = 3, 16


def seconds(contenders: dict[str, Phases], case: Case, cells: list) -> dict[str, float]:
    """Of the forward phase of each, in turns, the fastest."""
    phases = contenders["bfloat16"]
    parts = [part for cell in cells for part in phases.preprocess(case.item(cell))]
    batches = [[parts[index] for index in batch] for batch in pack(parts, phases.limits("auto"))]
    taken = dict.fromkeys(contenders, float("inf"))
    for _ in range(TURNS):
        for name, each in contenders.items():
            started = time.perf_counter()
            for batch in batches:
                each.forward(batch)
            taken[name] = min(taken[name], time.perf_counter() - started)
    return taken


def plain(phases: Phases) -> Phases:
    """With torch's own linear layers."""
    found = copy.copy(phases)
    found.pipe = copy.copy(phases.pipe)
    found.pipe.model = copy.deepcopy(phases.pipe.model)
    for layer in found.pipe.model.modules():
        if isinstance(layer, nn.Linear):
            vars(layer).pop("forward", None)
    return found


def agreement(full: list[Outcome], half: list[Outcome]) -> float:
    """The share of the rows whose results are the same, by the rules of `dtype: auto`."""
    return sum(difference([one], [other]) is None for one, other in zip(full, half, strict=True)) / len(full)


def main() -> None:
    print("| | float32, torch's layers | float32 | bfloat16 | bfloat16 / float32 | share of rows that agree | `dtype: auto` |")
    print("|---|---|---|---|---|---|---|")
    for name, scale in SCALES.items():
        with tempfile.TemporaryDirectory() as folder:
            case = Case(name, Path(folder))
            work = WORKLOADS[name]
            work.model(case.folder / "model")
            write(work.rows(scale), case.fewer)
            cells, watchdog = read(case.fewer), Watchdog(3600)
            full, half = case.phases(), case.phases(dtype="bfloat16")
            taken = seconds({"torch": plain(full), "float32": full, "bfloat16": half}, case, cells)
            items = [case.item(cell) for cell in cells]
            outcomes = [predict(phases, items, phases.limits("auto"), watchdog) for phases in (full, half)]
            agreeing = agreement(*outcomes)
            decision, reason = choose(full, items[:: max(1, len(items) // SAMPLE)], 3600)
        rates = [taken["torch"] / taken[each] for each in ("torch", "float32", "bfloat16")]
        print(
            f"| {name}, {len(cells)} rows | " + " | ".join(f"{rate:.2f}" for rate in rates)
            + f" | {rates[2] / rates[1]:.2f} | {agreeing:.3f} | {decision}: {reason} |",
            flush=True,
        )  # fmt: skip
    print(f"\nThe forward phase, {torch.get_num_threads()} threads, one batch at a time, the fastest of {TURNS} turns.")


if __name__ == "__main__":
    main()
