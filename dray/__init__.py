"""Any transformers pipeline task over any amount of data on any number of machines, from one YAML file."""

from pathlib import Path

_CHECKOUT = Path(__file__).parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "jobs" / "cli.py").is_file():
    # In a checkout dray.jobs and dray.pipelines are the folders beside this one; in an installed package they are in it.
    __path__.append(str(_CHECKOUT))
