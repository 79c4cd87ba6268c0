"""One run at a time in an output folder: a file that names the run and is written again while it lives."""

from __future__ import annotations

import contextlib
import json
import platform
import threading
import time
import uuid
from collections.abc import Callable, Mapping

import psutil

from dray.jobs.storage.folder import STATE, Folder
from dray.pipelines.errors import JobError, OutputError, reason

LEASE = f"{STATE}/run.json"
BEAT_S = 5.0  # between two writes of the file
SETTLED_S = 0.5  # after which the last of several who take over a dead run's folder has written
SILENT_BEATS = 4  # without a change: the run on another machine is dead


class Lease:
    """The right to write to an output folder. It ends with `release`, or with the death of its process."""

    def __init__(self, output: Folder) -> None:
        self._output = output
        process = psutil.Process()
        self._own: dict[str, object] = {
            "run": uuid.uuid4().hex,
            "host": platform.node(),
            "pid": process.pid,
            "process_started": process.create_time(),
            "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
            "beat": 0,
        }
        self._ended, self._lost = threading.Event(), False
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self) -> None:
        """Waits, where the file is of another machine, for as long as it takes to see whether that run is alive.

        Raises:
            OutputError: another run holds the folder; the message names it.
        """
        while not self._created():
            other = self._read()
            if other is None:
                continue
            if _is_alive(other, self._read):
                who = f"process {other['pid']} on {other['host']}"
                raise OutputError(
                    f"output.path: {self._output.url} is being written by the run that {who} started at {other['started']}; "
                    "wait for it, stop it, or choose another folder"
                )
            self._output.write(LEASE, json.dumps(self._own))
            time.sleep(SETTLED_S)
            if (self._read() or {}).get("run") == self._own["run"]:
                break
        self._thread.start()

    @property
    def run(self) -> str:
        """The run's own name."""
        return str(self._own["run"])

    @property
    def is_lost(self) -> bool:
        """Whether another run has taken the folder, having found this one silent."""
        return self._lost

    def release(self) -> None:
        """Ends the lease; harmless if it never began."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            if not self._lost:
                with contextlib.suppress(Exception):  # without a process behind it the file stands in nobody's way
                    refuse_other(self._output, self.run)
                    (self._output / LEASE).remove()

    def _created(self) -> bool:
        """Whether there was no file, and now there is ours."""
        try:
            return self._output.create(LEASE, json.dumps(self._own))
        except OutputError:
            raise
        except Exception as error:  # clients of object stores raise their own
            raise OutputError(f"output.path: cannot write to {self._output.url}: {reason(error)}") from None

    def _read(self) -> dict[str, object] | None:
        content = self._output.read(LEASE)
        try:
            return dict(json.loads(content)) if content is not None else None
        except ValueError:  # half of it, where a write is not all or nothing
            return {"run": None, "host": None, "pid": None, "started": "an unknown time"}

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                current = self._read()
                if current is not None and current.get("run") not in (self._own["run"], None):
                    self._lost = True
                    return
                self._own["beat"] = int(str(self._own["beat"])) + 1
                self._output.write(LEASE, json.dumps(self._own))
            except Exception:  # storage that fails now may work at the next beat
                continue


def refuse_other(output: Folder, run: str) -> None:
    """Raises JobError where another run, or none, holds the folder. A worker may outlive the run that started it."""
    content = output.read(LEASE)
    if content is None or f'"{run}"'.encode() not in content:
        raise JobError(f"the run that this worker belongs to has ended, or has lost {output.url} to another")


def _is_alive(other: Mapping[str, object], read: Callable[[], object]) -> bool:
    """Whether the run that wrote `other` lives: by its process on this machine, by its beat on another."""
    if other.get("host") == platform.node():
        try:
            return bool(psutil.Process(int(str(other["pid"]))).create_time() == other.get("process_started"))
        except psutil.NoSuchProcess:
            return False
    for _ in range(SILENT_BEATS):
        time.sleep(BEAT_S)
        now = read()
        if now != other:
            return now is not None
    return False
