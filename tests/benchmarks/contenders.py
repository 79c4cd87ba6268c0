"""One contender on one workload, in a process of its own: `contenders.py CONTENDER WORKLOAD FOLDER` prints a JSON line.

FOLDER holds `model`, `all` (the rows) and `fewer` (the share of them that all but dray's job are given).
"""

from __future__ import annotations

import gc
import io
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import soundfile
import torch
from PIL import Image
from transformers import pipeline
from transformers.utils.logging import disable_progress_bar
from workloads import HIDDEN, WORKLOADS, Workload, read

if TYPE_CHECKING:
    from dray.pipelines.phases.item import Item
    from dray.pipelines.phases.phases import Phases

BATCHES = (8, 32)
THREADS = 2


class Case:
    """A workload in a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.workload: Workload = WORKLOADS[name]
        self.folder, self.model = folder, str(folder / "model")
        self.fewer = folder / "fewer"

    def pipeline(self) -> object:
        torch.set_num_threads(THREADS)
        disable_progress_bar()
        return pipeline(self.workload.task, model=self.model)

    def phases(self, **engine: object) -> Phases:
        """dray's, with weights."""
        from dray.pipelines.config import parse_config
        from dray.pipelines.models.loading import load_phases

        torch.set_num_threads(THREADS)
        return load_phases(parse_config(self.config(self.fewer, **engine)), weights=True)

    def item(self, cell: object) -> Item:
        """A row, for these."""
        from dray.pipelines.phases.item import Item

        return Item({self.workload.argument: cell})

    def opened(self, cell: object) -> object:
        """What a user would hand to the pipeline."""
        if self.workload.task == "automatic-speech-recognition":
            samples, rate = soundfile.read(io.BytesIO(cell), dtype="float32")
            return {"raw": samples, "sampling_rate": rate}
        return Image.open(io.BytesIO(cell)).convert("RGB") if isinstance(cell, bytes) else cell

    def config(self, cells: Path, **engine: object) -> dict[str, object]:
        """dray's."""
        output = self.folder / "output"
        shutil.rmtree(output, ignore_errors=True)
        return {
            "task": self.workload.task, "model": self.model, "parameters": self.workload.parameters,
            "input": {"path": str(cells), "columns": {self.workload.argument: "cell"}}, "output": {"path": str(output)},
            "engine": {"dtype": "float32", **engine},
        }  # fmt: skip


Outcome = dict[str, float]


def looped(batch_size: int, is_sorted: bool = False) -> Callable[[Case], Outcome]:
    """transformers' pipeline over the rows, as its documentation shows."""

    def run(case: Case) -> Outcome:
        cells, pipe = read(case.fewer), case.pipeline()
        if is_sorted:
            cells.sort(key=case.workload.length)
        started = time.perf_counter()
        arguments = case.workload.parameters
        if batch_size == 1:
            for cell in cells:
                pipe(case.opened(cell), **arguments)
        else:
            for _ in pipe((case.opened(cell) for cell in cells), batch_size=batch_size, **arguments):
                pass
        return {"rows": len(cells), "seconds": time.perf_counter() - started}

    return run


class Predictor:
    """The actor of Ray Data's batch-inference guide."""

    def __init__(self, folder: str, name: str) -> None:
        self.case = Case(name, Path(folder))
        self.pipe = self.case.pipeline()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, object]:
        began = time.time()
        cells = [self.case.opened(cell) for cell in batch["cell"].tolist()]
        predictions = self.pipe(cells, batch_size=len(cells), **self.case.workload.parameters)
        return {"prediction": [json.dumps(each, default=str) for each in predictions], "began": [began] * len(cells)}


def ray_script(case: Case) -> Outcome:
    """Ray Data's guide: read_parquet, map_batches with an actor, write_parquet. From the first batch to the end."""
    import ray

    ray.init(address="local", log_to_driver=False, logging_level="ERROR", runtime_env={"env_vars": {"OMP_NUM_THREADS": "2"}})
    ray.data.DataContext.get_current().enable_progress_bars = False
    name = next(name for name, workload in WORKLOADS.items() if workload is case.workload)
    rows = ray.data.read_parquet(str(case.fewer)).map_batches(
        Predictor, fn_constructor_args=(str(case.folder), name), batch_size=32, compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    )  # fmt: skip
    out = case.folder / "ray"
    shutil.rmtree(out, ignore_errors=True)
    rows.write_parquet(str(out))
    ended = time.time()
    written = ray.data.read_parquet(str(out))
    count, began = written.count(), written.min("began")
    ray.shutdown()
    return {"rows": count, "seconds": ended - began}


def daft_model(case: Case) -> Outcome:
    """Daft with the pipeline in a class, as its guide to models shows. From the first batch to the end."""
    import daft

    @daft.cls
    class Model:
        def __init__(self) -> None:
            self.pipe = case.pipeline()

        @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=32)
        def predict(self, cells: daft.Series) -> list[str]:
            began = time.time()
            opened = [case.opened(cell) for cell in cells.to_pylist()]
            predictions = self.pipe(opened, batch_size=len(opened), **case.workload.parameters)
            return [json.dumps({"began": began, "prediction": each}, default=str) for each in predictions]

    out = case.folder / "daft"
    shutil.rmtree(out, ignore_errors=True)
    model = Model()
    daft.read_parquet(str(case.fewer)).with_column("prediction", model.predict(daft.col("cell"))).write_parquet(str(out))
    ended = time.time()
    written = daft.read_parquet(str(out)).to_pydict()["prediction"]
    return {"rows": len(written), "seconds": ended - min(json.loads(each)["began"] for each in written)}


def daft_embed(case: Case) -> Outcome:
    """Daft's built-in embed_text, less what a query of a few rows takes, which is loading."""
    import daft
    from daft.functions import embed_text

    torch.set_num_threads(THREADS)
    sentence_model(case).save(str(case.folder / "sentence"))
    cells = read(case.fewer)

    def seconds(rows: Sequence[object]) -> float:
        started = time.perf_counter()
        frame = daft.from_pydict({"cell": list(rows)})
        embedded = embed_text(frame["cell"], provider="transformers", model=str(case.folder / "sentence"))
        frame.with_column("prediction", embedded).collect()
        return time.perf_counter() - started

    seconds(cells[:4])
    loading = seconds(cells[:4])
    return {"rows": len(cells) - 4, "seconds": seconds(cells) - loading}


def sentence_model(case: Case) -> object:
    """The same model for sentence-transformers."""
    from sentence_transformers import SentenceTransformer, models

    transformer = models.Transformer(case.model)
    return SentenceTransformer(modules=[transformer, models.Pooling(HIDDEN, pooling_mode="cls")], device="cpu")


def sentences(case: Case) -> Outcome:
    """sentence-transformers' encode, which sorts by length."""
    torch.set_num_threads(THREADS)
    cells, model = read(case.fewer), sentence_model(case)
    started = time.perf_counter()
    model.encode(cells, batch_size=32, show_progress_bar=False)
    return {"rows": len(cells), "seconds": time.perf_counter() - started}


def bare(case: Case) -> Outcome:
    """The ceiling: torch alone over batches prepared beforehand and packed by length; the same with the linear layers that
    dray's model has; and dray's forward phase.

    The three take turns batch by batch, so that what else happens on the machine meets all.
    """
    from dray.pipelines.batching.collating import cast, collate
    from dray.pipelines.batching.packing import pack
    from dray.pipelines.engine.forward import forward_parts
    from dray.pipelines.engine.watchdog import Watchdog

    phases, plain = case.phases(), case.pipeline()
    limits, watchdog, during = phases.limits("auto"), Watchdog(3600), phases._arguments.during({})
    cells = read(case.fewer)
    padded = real = turn = 0

    def loop(pipe: object, chosen: list) -> float:
        inputs = cast(collate(phases.pipe, chosen), torch.float32)
        started = time.perf_counter()
        with torch.inference_mode():
            pipe._forward(inputs, **during)
        return time.perf_counter() - started

    def ours(chosen: list) -> float:
        started = time.perf_counter()
        forward_parts(phases, chosen, limits, watchdog)
        return time.perf_counter() - started

    runs = {"bare": lambda chosen: loop(plain, chosen), "layers": lambda chosen: loop(phases.pipe, chosen), "ours": ours}
    taken = dict.fromkeys(runs, 0.0)
    for group in _in_memory(cells, case):
        parts = [part for cell in group for part in phases.preprocess(case.item(cell))]
        for batch in pack(parts, limits):
            chosen = [parts[index] for index in batch]
            padded += max(part.cost for part in chosen) * len(chosen)
            real += sum(part.cost for part in chosen)
            turn += 1
            for place in range(len(runs)):
                who = list(runs)[(turn + place) % len(runs)]
                taken[who] += runs[who](chosen)
        del parts
        gc.collect()
    return {
        "rows": len(cells), "seconds": taken["bare"], "layers": taken["bare"] / taken["layers"],
        "forward": taken["bare"] / taken["ours"], "packing": real / padded,
    }  # fmt: skip


def _in_memory(cells: Sequence[object], case: Case) -> Iterator[list[object]]:
    """All rows, sorted; recordings and pictures in groups that memory holds."""
    cells = sorted(cells, key=case.workload.length)
    size = len(cells) if isinstance(cells[0], str) else 100
    for start in range(0, len(cells), size):
        yield list(cells[start : start + size])


def dray(case: Case) -> Outcome:
    """The command. From the first batch to the end; and what came before."""
    config = case.folder / "job.json"
    config.write_text(json.dumps(case.config(case.folder / "all")))
    command = [sys.executable, "-m", "dray.jobs.run", str(config), "--address", "local"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((case.folder / "output/_dray/summary.json").read_text())
    start, seconds = float(summary["startup_seconds"]), float(summary["seconds"])
    return {
        "rows": float(summary["rows_ok"]), "seconds": seconds - start, "startup": start,
        "waiting": float(summary["waiting_share"]), "padding": float(summary["padding_efficiency"]), "whole": seconds,
    }  # fmt: skip


CONTENDERS: dict[str, Callable[[Case], Outcome]] = {
    "bare": bare,
    "dray": dray,
    "pipeline, one by one": looped(1),
    **{f"pipeline, batch_size={size}": looped(size) for size in BATCHES},
    "pipeline, sorted, batch_size=8": looped(8, is_sorted=True),
    "Ray Data's guide, batch_size=32": ray_script,
    "Daft, batch_size=32": daft_model,
    "Daft's embed_text": daft_embed,
    "sentence-transformers": sentences,
}


def main() -> None:
    contender, workload, folder = sys.argv[1:]
    print("\n" + json.dumps(CONTENDERS[contender](Case(workload, Path(folder)))))


if __name__ == "__main__":
    main()
