"""The lease of an output folder, for one run at a time: a file that names the run and is rewritten while the run lives."""

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
SETTLED_S = 0.5  # several runs may take over a dead run's folder; after this time the last of them has written
SILENT_BEATS = 4  # beats without a change after which a run on another machine counts as dead


class Lease:
    """The right to write to an output folder. It ends with `release` or with its process."""

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
        """Takes the lease. If a run on another machine holds it, waits up to SILENT_BEATS beats to see whether it is alive.

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
        """The unique name of the run."""
        return str(self._own["run"])

    @property
    def is_lost(self) -> bool:
        """Whether another run has taken the folder because this one was silent."""
        return self._lost

    def release(self) -> None:
        """Ends the lease; does nothing if it never began."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
            if not self._lost:
                with contextlib.suppress(Exception):  # a file whose process has ended blocks no other run
                    refuse_other(self._output, self.run)
                    (self._output / LEASE).remove()

    def _created(self) -> bool:
        """Creates the file. Returns whether it did; False where there is one already."""
        try:
            return self._output.create(LEASE, json.dumps(self._own))
        except OutputError:
            raise
        except Exception as error:  # clients of object stores raise their own classes
            raise OutputError(f"output.path: cannot write to {self._output.url}: {reason(error)}") from None

    def _read(self) -> dict[str, object] | None:
        content = self._output.read(LEASE)
        try:
            return dict(json.loads(content)) if content is not None else None
        except ValueError:  # half a file, on storage where writes are not atomic
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
    """Raises JobError unless `run` holds the folder. A worker may outlive the run that started it."""
    content = output.read(LEASE)
    if content is None or f'"{run}"'.encode() not in content:
        raise JobError(f"the run that this worker belongs to has ended, or has lost {output.url} to another")


def _is_alive(other: Mapping[str, object], read: Callable[[], object]) -> bool:
    """Whether the run that wrote `other` is alive: by its process on this machine, by its beats on another."""
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
