"""`dray submit`: runs a batch job as a Ray job, with this folder as its working directory, and prints its log."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from dray.jobs.storage.folder import Folder, output_folder
from dray.pipelines.config import load_config
from dray.pipelines.errors import ConfigError, UsageError, first_line

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def main(parsed: argparse.Namespace) -> int:
    """Submits a job and prints its log until it ends."""
    return submit(parsed.config, parsed.set, parsed.fresh, parsed.address, wait=not parsed.no_wait)


def submit(config: str, overrides: Sequence[str], fresh: bool, address: str, wait: bool) -> int:
    """Submits a batch job to the cluster whose dashboard is at `address`.

    Args:
        config: path of the YAML file. It must be inside the current directory, which is sent to the cluster.
        overrides: values of --set.
        fresh: as for `dray run`.
        address: the dashboard's URL, "http://host:8265".
        wait: print the job's log until it ends.

    Returns:
        0 if the job succeeded or was only submitted, 1 if it failed.

    Raises:
        UsageError: the config is wrong or outside the current directory, or nothing answers at the address.
    """
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    _warn_of_relative(output_folder(load_config(config, overrides)))
    relative = os.path.relpath(config)
    if relative.startswith(".."):
        raise ConfigError(f"{config} lies outside the current directory, which is what the cluster is sent")
    words = ["python", "-m", "dray.jobs.run", relative, *(["--fresh"] if fresh else [])]
    words += [word for override in overrides for word in ("--set", override)]
    os.environ.pop("RAY_ADDRESS", None)  # Ray would prefer it to `address`
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(entrypoint=shlex.join(words), runtime_env={"working_dir": "."})
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        raise UsageError(f"--address: cannot submit to {address}: {first_line(error)}") from None
    print(f"submitted {job}", flush=True)
    if not wait:
        return 0
    try:
        return _follow(client, job)
    except KeyboardInterrupt:
        stop = f"ray job stop {job} --address {address}"
        print(f"\ndray: {job} goes on without this terminal; `{stop}` stops it", file=sys.stderr)
        return 1


def _warn_of_relative(output: Folder) -> None:
    if output.is_local and not os.path.isabs(output.url):
        print(
            f"dray: output.path {output.url} is relative: on the cluster it lies in the job's working directory, which Ray "
            "deletes in time; set an absolute path or a bucket to keep it",
            file=sys.stderr,
        )


def _follow(client: JobSubmissionClient, job: str) -> int:
    """Prints the job's log until it ends; returns 0 if it succeeded, else 1."""
    from ray.job_submission import JobStatus

    shown = 0
    while True:
        status = client.get_job_status(job)
        log = client.get_job_logs(job)
        print(log[shown:], end="", flush=True)
        shown = len(log)
        if status.is_terminal():
            return 0 if status is JobStatus.SUCCEEDED else 1
        time.sleep(1)
