"""`dray run`, `retry`, `plan` and `report`; also `python -m dray.jobs.run`, and in a checkout `python -m jobs.run`."""

from __future__ import annotations

import argparse
import sys

from dray.pipelines.config import load_config


def main(parsed: argparse.Namespace) -> int:
    """Runs a job and prints its summary."""
    config = load_config(parsed.config, parsed.set)
    from dray.jobs.batch.job import run
    from dray.jobs.batch.report import table

    print(table(run(config, parsed.fresh, parsed.address, parsed.again, parsed.started)))
    return 0


def plan(parsed: argparse.Namespace) -> int:
    """Prints what a config means and how it would use the cluster."""
    from dray.jobs.batch.planning import plan

    print(plan(load_config(parsed.config, parsed.set), parsed.address))
    return 0


def report(parsed: argparse.Namespace) -> int:
    """Writes the report of the last run again."""
    from dray.jobs.batch.report import write_again

    print(write_again(load_config(parsed.config, parsed.set)))
    return 0


if __name__ == "__main__":
    from dray.jobs.cli import main as dray

    sys.exit(dray(["run", *sys.argv[1:]]))
