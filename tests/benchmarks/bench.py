"""`make bench`: measures everything, and writes docs/results.md. `bench.py PART ...` measures only these parts again."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

from machine import described
from workloads import WORKLOADS

HERE = Path(__file__).parent
RESULTS = HERE.parents[1] / "docs" / "results.md"
PARTS = {
    **{workload.title[0].upper() + workload.title[1:]: ["speed.py", name] for name, workload in WORKLOADS.items()},
    "Float32 and bfloat16": ["halves.py"],
    "Batches that are found and batches that are set": ["sweep.py"],
    "Going on with a job that is nearly done": ["restart.py"],
    "Many actors of a model that only sleeps": ["scaling.py", "scaling"],
    "Memory when the data grow": ["scaling.py", "memory"],
    "The service, beside a plain server": ["load.py"],
}


def _name(script: str, *arguments: str) -> str:
    """By which a part is asked for."""
    return arguments[-1] if arguments else script.removesuffix(".py")


def sections(text: str) -> dict[str, str]:
    """Title -> what is below it; the head of the file has the title ""."""
    head, *rest = re.split(r"^## ", text, flags=re.MULTILINE)
    return {"": head, **{part.partition("\n")[0]: part.partition("\n")[2].strip("\n") for part in rest}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", default="1", help="of the workloads; 1: a minute and more on two cores")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(_name(*each) for each in PARTS.values())}")
    parsed = parser.parse_args()
    wanted = parsed.parts
    for title, (script, *arguments) in PARTS.items():
        if wanted and _name(script, *arguments) not in wanted:
            continue
        arguments += ["--scale", parsed.scale] if script == "speed.py" else []
        done = subprocess.run([sys.executable, str(HERE / script), *arguments], stdout=subprocess.PIPE, text=True, check=True)
        print(f"## {title}\n\n{done.stdout}", flush=True)
        found = sections(RESULTS.read_text(encoding="utf-8"))
        found[title] = f"{date.today()}, {described()}.\n\n{done.stdout.strip()}"
        order = ["", *(known for known in PARTS if known in found), *(other for other in found if other and other not in PARTS)]
        parts = [found[""].strip("\n"), *(f"## {known}\n\n{found[known].strip()}" for known in order[1:])]
        RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
