"""`dray tune`."""

from __future__ import annotations

import argparse

from dray.jobs.batch.tune import tune
from dray.pipelines.config import load_config


def main(parsed: argparse.Namespace) -> int:
    """Prints what was tried and which values were chosen."""
    print(tune(load_config(parsed.config, parsed.set), parsed.address).table())
    return 0
