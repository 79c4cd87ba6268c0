"""`dray verify`."""

from __future__ import annotations

import argparse

from dray.jobs.verification.verify import verify
from dray.pipelines.config import load_config


def main(parsed: argparse.Namespace) -> int:
    """Prints the result; returns 1 if there are problems, else 0."""
    verification = verify(load_config(parsed.config, parsed.set), parsed.sample, parsed.seed, parsed.tolerance)
    print(verification.table())
    return 1 if verification.problems else 0
