"""`make bench`: engine.batch: auto, tuned, beside every fixed number of parts and every fixed budget. Prints Markdown."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from support import builders
from support.loading import load_phases

from dray.pipelines.batching.parts import Limits
from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import sample_parts
from dray.pipelines.engine.forward import forward_parts
from dray.pipelines.engine.tuning_cache import Tuner
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

ROWS, ROUNDS = 600, 3


def main() -> None:
    torch.set_num_threads(2)
    texts = builders.texts(ROWS, seed=5, sigma=1.0, longest=500)
    items = [Item({"text": text}, key=index) for index, text in enumerate(texts)]
    watchdog = Watchdog(3600)
    with tempfile.TemporaryDirectory() as name:
        model = builders.text_classifier(Path(name) / "model", 4, 256)
        raw = {"task": "text-classification", "model": model, "input": {"path": "in"}, "output": {"path": "out"}}
        phases = load_phases(parse_config(raw), weights=True)
    parts = [part for item in items for part in phases.preprocess(item)]
    tuner = Tuner(phases, "auto", f"sweep {time.time()}", seconds=8)
    tuner.learn(sample_parts(phases, items, watchdog, 8), watchdog)
    contenders = {f"batch: {count}": Limits.fixed(count) for count in (1, 2, 4, 8, 16, 32, 64)}
    contenders |= {
        f"a budget of {elements:,} tokens": Limits.budget(elements) for elements in (128, 256, 512, 1024, 2048, 4096)
    }
    contenders["batch: auto, tuned"] = tuner.limits
    seconds = dict.fromkeys(contenders, float("inf"))
    for _ in range(ROUNDS):  # in turns, so that what else happens on the machine meets all
        for label, limits in contenders.items():
            started = time.perf_counter()
            forward_parts(phases, parts, limits, watchdog)
            seconds[label] = min(seconds[label], time.perf_counter() - started)
    best = min(seconds.values())
    print(f"{ROWS} texts of lognormal lengths, BERT of 4 layers, hidden 256; the forward phase, sorted by length.\n")
    print("| | speed, best = 1 |\n|---|---|")
    for label, taken in seconds.items():
        print(f"| {label} | {best / taken:.2f} |")
    print(f"\nFound: {', '.join(f'up to {longest} tokens: {most}' for longest, most in tuner.limits.by_length)}.")


if __name__ == "__main__":
    main()
