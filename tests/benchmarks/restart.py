"""`make bench`: what it takes to go on with a job that is 99% done, and the memory of finished rows. Prints Markdown."""

import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support import builders

from dray.jobs.batch.job import run
from dray.jobs.batch.preflight import check
from dray.jobs.cluster.connect import connected
from dray.jobs.columns import KEY
from dray.jobs.keys import keys_between
from dray.jobs.outputs.commits import CHECKPOINT
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import JobConfig, parse_config

ROWS, FILES, BLOCK = 1_000_000, 100, 990  # BLOCK rows were written by each write task
LEFT = 0.01  # of every file
MANY, BATCH = 10_000_000, 2_000  # for the memory of finished rows


def config_of(folder: Path, model: str, output: str, files: str) -> JobConfig:
    raw = {"task": "text-classification", "model": model, "input": {"path": str(folder / "in" / files)}}
    return parse_config({**raw, "output": {"path": str(folder / output)}})


def write_input(folder: Path) -> None:
    texts = builders.texts(ROWS // FILES, median=8)
    (folder / "in").mkdir()
    for number in range(FILES):
        pq.write_table(pa.table({"text": texts}), folder / "in" / f"{number:03}.parquet", row_group_size=BLOCK)


def finish(config: JobConfig, share: float) -> None:
    """Leaves what write tasks would have left that did the first `share` of every file."""
    job = check(config)
    prediction = pa.array([[{"label": "good", "score": 0.5}]] * BLOCK, job.schema)
    task = 0
    for source in job.data.sources:
        for first in range(0, int(source.rows * share) // BLOCK * BLOCK, BLOCK):
            keys = keys_between(source.first_key + first, source.first_key + first + BLOCK)
            rows = pa.table({"id": source.ids(first, BLOCK), "source": [source.name] * BLOCK, "prediction": prediction})
            leave(job.output, f"{task:032x}_000000", keys, rows)
            task += 1
    job.lease.release()


def leave(output: Folder, task: str, keys: np.ndarray, rows: pa.Table | None) -> None:
    files = {f"{CHECKPOINT}/{task}.parquet": pa.table({KEY: keys})}
    if rows is not None:
        files[f"data/status=ok/{task}.parquet"] = rows
    for name, table in files.items():
        content = pa.BufferOutputStream()
        pq.write_table(table, content)
        output.write(name, content.getvalue().to_pybytes())


def measured(config: JobConfig) -> tuple[float, float, float]:
    """Seconds for the checks, until the model first ran, and in all."""
    started = time.perf_counter()
    check(config, dry=False).lease.release()
    checks = time.perf_counter() - started
    with contextlib.redirect_stdout(io.StringIO()):
        summary = run(config)
    return checks, summary["startup_seconds"], summary["seconds"]


MEMORY = """
import resource, sys, time
from dray.jobs.outputs.commits import finished_keys
from dray.jobs.storage.folder import Folder
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
keys = finished_keys(Folder(sys.argv[1], {}))
seconds = time.perf_counter() - started
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
print(len(keys), keys.starts.nbytes + keys.stops.nbytes, grown, seconds)
"""


def memory(folder: Path, gaps: int) -> tuple[int, int, int, float]:
    """Of MANY finished rows, every `gaps`-th of which is missing: how many, bytes kept, peak growth in bytes, seconds."""
    output = Folder(str(folder), {})
    for task in range(MANY // BATCH):
        keys = keys_between(1 + task * BATCH, 1 + (task + 1) * BATCH)
        leave(output, f"{task:032x}_000000", keys[keys % np.uint64(gaps) != 0] if gaps else keys, None)
    done = subprocess.run([sys.executable, "-c", MEMORY, str(folder)], capture_output=True, text=True, check=True)
    rows, kept, grown, seconds = done.stdout.split()
    return int(rows), int(kept), int(grown), float(seconds)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, connected("local"):
        folder = Path(name)
        model = builders.text_classifier(folder / "model")
        write_input(folder)
        one_file = measured(config_of(folder, model, "one", "000.parquet"))  # the workers' first start warms the machine
        one_file = measured(config_of(folder, model, "one-again", "000.parquet"))
        config = config_of(folder, model, "out", "*.parquet")
        finish(config, 1 - LEFT)
        left = measured(config)
        print(f"\n| {ROWS:,} rows in {FILES} files | checks | until the model runs | in all |\n|---|---|---|---|")
        print(f"| {ROWS // FILES:,} rows, nothing done before | " + " | ".join(f"{value:.1f} s" for value in one_file) + " |")
        print(f"| all {ROWS:,}, 99% of them done before | " + " | ".join(f"{value:.1f} s" for value in left) + " |")
        print("| second / first | " + " | ".join(f"{b / a:.2f}" for a, b in zip(one_file, left, strict=True)) + " |")
        print("\n| finished rows | kept per row | peak while reading, per row | read in |\n|---|---|---|---|")
        for label, gaps in (("whole blocks", 0), ("every tenth row missing", 10), ("every second row missing", 2)):
            rows, kept, grown, seconds = memory(folder / f"gaps{gaps}", gaps)
            print(f"| {rows:,}, {label} | {kept / rows:.4f} bytes | {grown / rows:.1f} bytes | {seconds:.1f} s |")
    print(f"\npeak memory of this driver: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
