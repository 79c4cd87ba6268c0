"""`make bench`: dray beside what a user would write, same texts, same model, same dtype, in one run. Prints Markdown."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import builders
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import pipeline

from jobs.connect import connected
from jobs.run import run
from pipelines.batching import Limits, Part, collate, pack
from pipelines.config import JobConfig, parse_config
from pipelines.engine import forward_parts
from pipelines.models.loading import load_phases
from pipelines.phases import Item
from pipelines.watch import Watch

ROWS = 4000  # texts of lognormal lengths, median 39 words, sigma 1, at most 500
LAYERS, HIDDEN = 4, 256  # BERT-Mini


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def job(folder: Path, model: str, texts: list[str]) -> JobConfig:
    (folder / "in").mkdir()
    for shard, part in enumerate(np.array_split(np.array(texts, object), 4)):
        pq.write_table(pa.table({"text": part.tolist()}), folder / "in" / f"{shard}.parquet")
    raw = {"task": "text-classification", "model": model, "input": {"path": str(folder / "in")}}
    return parse_config({**raw, "output": {"path": str(folder / "out")}})


def forward_ratio(config: JobConfig, texts: list[str]) -> tuple[float, float]:
    """Speed of the forward phase as a share of a bare torch loop over the same batches; and the padding efficiency."""
    phases = load_phases(config, weights=True)
    parts = [part for text in texts for part in phases.preprocess(Item({"text": text}))]
    limits = phases.limits("auto")
    batches = [collate(phases.pipe, [parts[i] for i in batch]) for batch in pack(parts, limits)]
    bare, ours = [], []
    for _ in range(3):
        bare.append(seconds(lambda: bare_loop(phases.pipe.model, batches)))
        ours.append(seconds(lambda: forward_parts(phases, parts, Limits(limits.parts, limits.elements), Watch(600))))
    return min(bare) / min(ours), efficiency(parts, limits)


@torch.inference_mode()
def bare_loop(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]]) -> None:
    for batch in batches:
        model(**batch)


def efficiency(parts: list[Part], limits: Limits) -> float:
    padded = sum(len(batch) * max(parts[i].cost for i in batch) for batch in pack(parts, limits))
    return sum(part.cost for part in parts) / padded


def main() -> None:
    texts = builders.texts(ROWS, seed=5, sigma=1.0, longest=500)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = builders.text_classifier(folder / "model", LAYERS, HIDDEN)
        config = job(folder, model, texts)
        rows: list[tuple[str, float]] = []
        with connected("local"):
            summary = run(config)
        whole, start = float(summary["seconds"]), float(summary["startup_seconds"])
        rows.append(("dray run, without start-up", ROWS / (whole - start)))
        rows.append(("dray run, checks, Ray's workers and model loading included", ROWS / whole))
        pipe = pipeline("text-classification", model=model)
        rows.append(("pipeline, one by one", ROWS / seconds(lambda: [pipe(text) for text in texts])))
        for size in (8, 32):
            rows.append((f"pipeline, batch_size={size}", ROWS / seconds(lambda size=size: pipe(texts, batch_size=size))))
        forward, padding = forward_ratio(config, texts[:1000])
    base = dict(rows)["pipeline, one by one"]
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, float32")
    print(
        f"{ROWS} texts of lognormal lengths (median 39 words, sigma 1, at most 500), BERT of {LAYERS} layers, hidden {HIDDEN};"
    )
    print("speed as a multiple of the pipeline one by one\n")
    print("| contender | speed |\n|---|---|")
    for label, rate in rows:
        print(f"| {label} | {rate / base:.2f} |")
    print(f"\nforward phase / bare torch loop over the same batches: {forward:.2f}")
    print(f"padding efficiency: {padding:.3f}")
    print(f"start-up: {start:.1f} of {whole:.1f} s")


if __name__ == "__main__":
    main()
