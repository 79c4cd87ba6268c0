"""`make bench`: many actors of a model that only sleeps, and memory when the data grow. Prints Markdown.

Actors of a sleeping model need no cores of their own, so a small machine shows what dray and Ray cost beside the model.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from support import builders, drilling

SLEEP_S, BATCH = 0.1, 4  # of the model, for a batch of so many rows
ACTORS = (1, 4, 16)
STEADY_S = 30.0  # that each actor works
ROWS = 50_000, 500_000  # whose memory is compared: blocks are as large as they get in both
TASKS = ("ReadRows", "StreamingRepartition", "Write")  # of which a process does now one, now another


class Memory(NamedTuple):
    """MiB of a process: its own, as it was seen, and its peak with the pages of the object store that it has touched."""

    own: int
    mapped: int

    @classmethod
    def of(cls, status: str) -> Memory:
        """`status` is the text of /proc/PID/status."""
        size = {name: int(kib) >> 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", status, re.MULTILINE)}
        return cls(size["RssAnon"] + size["RssFile"], size["VmHWM"])

    def most(self, other: Memory) -> Memory:
        """The larger of each."""
        return Memory(max(self.own, other.own), max(self.mapped, other.mapped))


JOB = """
import json, resource, sys, ray
from dray.jobs.batch.job import run
from dray.pipelines.config import load_config
ray.init(address="local", num_cpus=int(sys.argv[2]), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
started = resource.getrusage(resource.RUSAGE_SELF)
summary = run(load_config(sys.argv[1]))
ended = resource.getrusage(resource.RUSAGE_SELF)
summary["driver_cpu"] = ended.ru_utime + ended.ru_stime - started.ru_utime - started.ru_stime
summary["driver_bytes"] = ended.ru_maxrss * 1024
print(json.dumps(summary))
"""


def job(folder: Path, model: str, rows: int, **engine: object) -> Path:
    """The config of a job over short texts."""
    (folder / "in").mkdir(parents=True)
    texts = builders.texts(rows, median=8)
    for shard in range(8):
        pq.write_table(pa.table({"text": texts[shard::8]}), folder / "in" / f"{shard}.parquet", row_group_size=2500)
    raw = {
        "task": "text-classification", "model": model, "input": {"path": str(folder / "in")},
        "output": {"path": str(folder / "out")}, "engine": engine, "model_kwargs": {"trust_remote_code": True},
    }  # fmt: skip
    (folder / "job.yaml").write_text(json.dumps(raw))
    return folder / "job.yaml"


def run(config: Path, cpus: int) -> dict:
    """The job's summary, with the driver's CPU seconds and bytes, and the peak memory of each kind of worker."""
    process = subprocess.Popen([sys.executable, "-c", JOB, str(config), str(cpus)], stdout=subprocess.PIPE, text=True)
    peaks: dict[str, Memory] = {}
    done = threading.Event()
    watcher = threading.Thread(target=watchdog, args=(process.pid, peaks, done))
    watcher.start()
    output, _ = process.communicate(timeout=1500)
    done.set()
    watcher.join()
    assert process.returncode == 0
    (found,) = [line for line in output.splitlines() if line.startswith('{"rows_in"')]  # progress lines are around it
    return {**json.loads(found), "peaks": dict(peaks)}


def watchdog(pid: int, peaks: dict[str, Memory], done: threading.Event) -> None:
    """Notes the most memory that workers of each name have held; those that do tasks are one kind, also between tasks."""
    kinds: dict[int, str] = {}
    while not done.wait(0.5):
        for child in _children(pid):
            try:
                name = re.match(r"ray::([\w()]+)", " ".join(child.cmdline()))
                status = Path(f"/proc/{child.pid}/status").read_text()
            except (OSError, psutil.Error):
                continue
            if name and "IDLE" not in name[1]:
                kinds[child.pid] = "tasks that read, cut and write" if name[1].startswith(TASKS) else name[1]
            kind = kinds.get(child.pid)
            if kind and "VmHWM" in status:
                peaks[kind] = peaks.get(kind, Memory(0, 0)).most(Memory.of(status))


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def efficiency(summary: dict) -> float:
    """What the batches would take if the model did nothing but sleep, of the time from the first to the last of each actor."""
    phases = summary["seconds_by_phase"]
    return summary["rows_ok"] / BATCH * SLEEP_S / (phases["forward"] + phases["waiting"])


def scaling(folder: Path) -> None:
    """Efficiency against the ideal, and what a block costs the driver."""
    model = drilling.trouble_model(folder / "model", seconds=SLEEP_S)
    print("| actors | of ideal | blocks | driver's CPU seconds per 1,000 blocks |\n|---|---|---|---|")
    for actors in ACTORS:
        rows = round(actors * BATCH / SLEEP_S * STEADY_S)
        config = job(folder / str(actors), model, rows, batch=BATCH, actors=actors, layout="fused")
        summary = run(config, 2 * actors + 2)
        blocks = len(list((folder / str(actors) / "out/_dray/checkpoint").glob("*.parquet")))
        cost = 1000 * summary["driver_cpu"] / blocks
        print(f"| {actors} | {efficiency(summary):.3f} | {blocks} | {cost:.1f} |", flush=True)


def memory(folder: Path) -> None:
    """Peak memory with few and with ten times as many rows; these first, so that both jobs have batches that were tuned."""
    model = builders.text_classifier(folder / "model")
    found: list[dict] = []
    for rows in reversed(ROWS):
        summary = run(job(folder / str(rows), model, rows, dtype="float32"), 2)
        driver = summary["driver_bytes"] >> 20
        found.insert(0, {"driver": Memory(driver, driver), **summary["peaks"]})
    few, many = (f"{rows:,} rows" for rows in ROWS)
    print(f"\n| process | its own MiB, {few} | {many} | ratio | with the object store's, {few} | {many} | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name in found[0].keys() & found[1].keys():
        cells = [f"{one} | {ten} | {ten / one:.2f}" for one, ten in zip(found[0][name], found[1][name], strict=True)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        {"scaling": scaling, "memory": memory}[sys.argv[1]](Path(name))


if __name__ == "__main__":
    main()
