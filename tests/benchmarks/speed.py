"""`make bench`: dray beside what a user would pick instead, workload by workload. Prints Markdown.

speed.py [--scale S] [WORKLOAD ...]: S is 1 for workloads of about a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from contenders import CONTENDERS
from workloads import WORKLOADS, write

SKIPPED = {  # what a contender is not for
    "Daft's embed_text": [name for name in WORKLOADS if name != "embeddings"],
    "sentence-transformers": [name for name in WORKLOADS if name != "embeddings"],
}
HERE = Path(__file__).parent


def measure(contender: str, workload: str, folder: Path) -> dict[str, float] | None:
    """What the contender printed; None where it failed or took longer than half an hour."""
    command = [sys.executable, str(HERE / "contenders.py"), contender, workload, str(folder)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode:
        print(f"{contender} on {workload}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def compared(workload: str, folder: Path, scale: float) -> dict[str, dict[str, float]]:
    """Every contender's outcome on one workload."""
    work = WORKLOADS[workload]
    cells = work.rows(scale)
    work.model(folder / "model")
    write(cells, folder / "all")
    write(work.fewer(cells), folder / "fewer")
    found: dict[str, dict[str, float]] = {}
    first, second, *others = CONTENDERS  # the bare loop before and after dray: a machine's mood changes from minute to minute
    for contender in [first, second, first, *others]:
        if workload in SKIPPED.get(contender, ()):
            continue
        started = time.time()
        outcome = measure(contender, workload, folder)
        if outcome is not None:
            print(f"{workload}: {contender}: {outcome} ({time.time() - started:.0f} s)", file=sys.stderr, flush=True)
            before = found.get(contender, outcome)
            found[contender] = {key: (before[key] + outcome[key]) / 2 for key in outcome}
    return found


def table(workload: str, found: dict[str, dict[str, float]]) -> str:
    """Speeds as shares of the bare loop's."""
    rate = {name: outcome["rows"] / outcome["seconds"] for name, outcome in found.items()}
    ceiling, ours = rate["bare"], rate["dray"]
    job, bare = found["dray"], found["bare"]
    lines = ["| contender | speed, bare loop = 1 | dray is so many times as fast |"]
    lines += ["|---|---|---|", f"| bare torch loop over packed batches | 1.00 | {ours / ceiling:.2f} |"]
    lines += [
        f"| the same with dray's linear layers | {bare['layers']:.2f} | {ours / ceiling / bare['layers']:.2f} |",
        f"| dray's forward phase, over the same batches | {bare['forward']:.2f} | |",
    ]
    for name in found:
        if name != "bare":
            title = "**dray run**, from the first batch on" if name == "dray" else name
            lines.append(f"| {title} | {rate[name] / ceiling:.2f} | {ours / rate[name]:.2f} |")
    lines += [
        "",
        f"{job['rows']:.0f} rows. Padding efficiency {job['padding']:.3f} (the loop: {bare['packing']:.3f}). "
        f"Forward waited {job['waiting']:.1%} of the time. {job['startup']:.1f} s from the command "
        f"until the model first ran, then {job['seconds']:.0f} s. "
        f"The others had one row of {round(1 / WORKLOADS[workload].share)}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("workloads", nargs="*", metavar="WORKLOAD", help=f"of {', '.join(WORKLOADS)}; default: all")
    parsed = parser.parse_args()
    for workload in parsed.workloads or WORKLOADS:
        with tempfile.TemporaryDirectory() as folder:
            print(table(workload, compared(workload, Path(folder), parsed.scale)), flush=True)


if __name__ == "__main__":
    main()
