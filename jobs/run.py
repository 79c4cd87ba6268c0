"""`python -m dray.jobs.run CONFIG`, and `python -m jobs.run CONFIG` in a checkout: the same as `dray run CONFIG`."""

from __future__ import annotations

import sys

from dray.jobs.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
