"""Any transformers pipeline task over any amount of data on any number of machines, from one YAML file.

    import dray

    summary = dray.run("job.yaml", overrides={"engine.batch": 16})
    summary.rows_ok
    dray.load("output/job").to_table()

A config is the path of a YAML file, a dict with the same keys, or a `JobConfig`. Nothing here ends the process: mistakes in a
config raise `UsageError`, jobs that cannot be finished raise `JobError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

_CHECKOUT = Path(__file__).parent.parent
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "jobs" / "cli.py").is_file():
    # In a checkout dray.jobs and dray.pipelines are the folders beside this one; in an installed package they are in it.
    __path__.append(str(_CHECKOUT))

from dray.pipelines.errors import (  # noqa: E402  # it lies in a folder that was just found
    BusyError,
    ConfigError,
    DrayError,
    FaultError,
    InputError,
    JobError,
    ModelError,
    OutputError,
    RequestError,
    RowError,
    StorageError,
    UsageError,
)

if TYPE_CHECKING:
    import pyarrow.dataset

    from dray.jobs.batch.planning import PlannedJob
    from dray.jobs.batch.summary import Summary
    from dray.jobs.verification.verify import Verification
    from dray.pipelines.config import JobConfig

__all__ = [
    "BusyError",
    "ConfigError",
    "DrayError",
    "FaultError",
    "InputError",
    "JobConfig",
    "JobError",
    "ModelError",
    "OutputError",
    "RequestError",
    "RowError",
    "StorageError",
    "UsageError",
    "__version__",
    "load",
    "plan",
    "retry",
    "run",
    "verify",
]

__version__ = "0.2.0"


def run(
    config: str | PathLike[str] | Mapping[str, Any] | JobConfig,
    *,
    overrides: Mapping[str, object] | None = None,
    fresh: bool = False,
    address: str | None = None,
) -> Summary:
    """Runs a job to its end, or continues one that was interrupted, and returns its summary: `summary.rows_ok` ...

    Args:
        config: the job.
        overrides: keys of the config -> other values, as {"engine.batch": 16}.
        fresh: delete what earlier runs have written to the output folder, and start over.
        address: of a Ray cluster; without, the one that this process or machine is part of, or else one of this process.

    Raises:
        UsageError: something in the config is wrong; nothing was done.
        JobError: more rows failed than `errors.max_failed_fraction` allows, or the job cannot go on.
    """
    from dray.jobs.batch.job import run

    return run(_config(config, overrides), fresh, address)


def retry(
    config: str | PathLike[str] | Mapping[str, Any] | JobConfig,
    *,
    overrides: Mapping[str, object] | None = None,
    address: str | None = None,
) -> Summary:
    """Does the failed rows of earlier runs again, and no others, and returns the summary. Arguments and errors as of `run`."""
    from dray.jobs.batch.job import run

    return run(_config(config, overrides), address=address, again=True)


def plan(
    config: str | PathLike[str] | Mapping[str, Any] | JobConfig,
    *,
    overrides: Mapping[str, object] | None = None,
    address: str | None = None,
) -> PlannedJob:
    """Checks a config completely and returns what it means and how it would use the cluster; runs nothing.

    Arguments and errors as of `run`. `str()` of what it returns is what `dray plan` prints.
    """
    from dray.jobs.batch.planning import plan

    return plan(_config(config, overrides), address)


def verify(
    config: str | PathLike[str] | Mapping[str, Any] | JobConfig,
    *,
    overrides: Mapping[str, object] | None = None,
    sample: int = 20,
    seed: int = 0,
    tolerance: float | None = None,
) -> Verification:
    """Counts input and output afresh, does a sample of the rows again, and returns what was found; it changes nothing.

    Args:
        config: the job.
        overrides: keys of the config -> other values.
        sample: finished rows to do again, one by one.
        seed: of the choice of these rows.
        tolerance: of numbers; without, 1e-4, and 0.05 in half precision.

    Raises:
        UsageError: something in the config is wrong, or the output folder holds the results of another job.
    """
    from dray.jobs.verification.verify import verify

    return verify(_config(config, overrides), sample, seed, tolerance)


def load(
    path: str | PathLike[str],
    *,
    status: Literal["ok", "failed"] = "ok",
    storage_options: Mapping[str, Any] | None = None,
) -> pyarrow.dataset.Dataset:
    """The results in an output folder as a dataset, one row for each input row that is done; nothing is read yet.

    Args:
        path: the output folder of a job, local or any URL that fsspec knows.
        status: "failed": the rows that failed, with their errors.
        storage_options: as fsspec takes them.

    Raises:
        OutputError: the folder holds no such rows.
    """
    from dray.jobs.outputs.results import load

    return load(str(path), status, dict(storage_options or {}))


def _config(config: str | PathLike[str] | Mapping[str, Any] | JobConfig, overrides: Mapping[str, object] | None) -> JobConfig:
    from dray.pipelines.config import JobConfig, load_config, parse_config, with_overrides

    if isinstance(config, JobConfig):
        raw: Mapping[str, Any] = config.model_dump(mode="json", exclude_unset=True)
    elif isinstance(config, Mapping):
        raw = config
    else:
        return load_config(config, overrides or {})
    return parse_config(with_overrides(raw, overrides or {}))


def __getattr__(name: str) -> Any:  # noqa: ANN401  # any attribute of this module
    """`JobConfig`, which takes pydantic to import, when it is first asked for."""
    if name == "JobConfig":
        from dray.pipelines.config import JobConfig

        return JobConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
