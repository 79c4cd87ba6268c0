"""`dray verify`."""

from __future__ import annotations

import argparse

from dray.jobs.verification.verify import verify
from dray.pipelines.config import load_config


def main(parsed: argparse.Namespace) -> int:
    """Prints what was found; 1 where there are problems."""
    found = verify(load_config(parsed.config, parsed.set), parsed.sample, parsed.seed, parsed.tolerance)
    print(found.table())
    return 1 if found.problems else 0
