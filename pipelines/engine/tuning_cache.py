"""The cache of tuned batch sizes, beside the models of this node: a model is tuned once on each node."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dray.pipelines.batching import tuning
from dray.pipelines.batching.packing import is_out_of_memory
from dray.pipelines.batching.parts import Part
from dray.pipelines.batching.tuning import Bucket, Trial
from dray.pipelines.cache import cache_folder
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import FaultError, RowError, is_own_fault

if TYPE_CHECKING:
    from dray.pipelines.phases.phases import Phases


TRIES = 2  # of a worker: one row that the model refuses must not prevent tuning, nor must each block try again
ENGINE = 2  # raised when batches are run so differently that earlier results are not valid


@dataclass(frozen=True)
class TuningKey:
    """The key of a cached result: model, task, precision, hardware and versions.

    `threads` are all torch threads of a worker, for one batch or several at once.
    """

    model: str
    task: str
    dtype: str
    device: str
    threads: int
    torch: str
    engine: int = ENGINE

    @classmethod
    def of(cls, phases: Phases, identity: str) -> TuningKey:
        """`identity` is the model's commit, or a hash of its files."""
        import torch

        device, dtype = phases.pipe.device, str(phases.pipe.dtype).removeprefix("torch.")
        threads = 0 if phases.on_accelerator else torch.get_num_threads()
        return cls(identity, phases.task.name, dtype, device_name(device), threads, torch.__version__)

    @property
    def path(self) -> Path:
        """The file with the cached result."""
        return _path(asdict(self))


def device_name(device: object) -> str:
    """The name of a torch device's hardware, for example NVIDIA H200 or the processor's model."""
    import torch

    if torch.device(str(device)).type == "cuda":
        return str(torch.cuda.get_device_name(torch.device(str(device))))
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return f"{device} {line.partition(':')[2].strip()}"
    return f"{device} {platform.processor() or platform.machine()}"


def recall(key: TuningKey) -> list[Bucket]:
    """The cached buckets; empty if there are none."""
    try:
        buckets = json.loads(key.path.read_text(encoding="utf-8"))["buckets"]
        return [
            Bucket(each["longest"], each["elements"], tuple(Trial(**trial) for trial in each["trials"])) for each in buckets
        ]
    except (OSError, ValueError, KeyError, TypeError):  # no file, or one of another version
        return []


def remember(key: TuningKey, buckets: Sequence[Bucket]) -> None:
    """Stores the buckets in the cache."""
    _write(key.path, {**asdict(key), "buckets": [asdict(bucket) for bucket in buckets]})


def recall_threads(model: str, task: str) -> int | None:
    """The cached number of threads for a copy of the model on CPUs; None if there is none."""
    try:
        return int(json.loads(_path(_threads_key(model, task)).read_text(encoding="utf-8"))["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def remember_threads(model: str, task: str, threads: int) -> None:
    """Stores the number of threads in the cache."""
    key = _threads_key(model, task)
    _write(_path(key), {**key, "threads": threads})


def _threads_key(model: str, task: str) -> dict[str, object]:
    return {"model": model, "task": task, "engine": ENGINE}


def _path(key: Mapping[str, object]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return cache_folder().parent / "tuned" / f"{digest}.json"


def _write(path: Path, content: Mapping[str, object]) -> None:
    """Writes a file of the cache. If that fails, the next worker only has to tune again."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(content, indent=1), encoding="utf-8")
        partial.replace(path)


class Tuner:
    """The batch limits of one worker: set by the config, cached, or tuned with its first parts.

    Attributes:
        limits: the current limits; tuning changes them in place.
        seconds: the most seconds for tuning.
    """

    def __init__(self, phases: Phases, batch: int | str, identity: str, seconds: float) -> None:
        """`batch` is `engine.batch`; `identity` the model's. `seconds` of 0: no tuning."""
        self._phases, self.seconds = phases, seconds
        self.limits = phases.limits(batch)
        self._key = None if isinstance(batch, int) or not phases.is_tunable else TuningKey.of(phases, identity)
        known = recall(self._key) if self._key else []
        self._tries = 0 if self._key is None or known else TRIES
        self._set(known)

    @property
    def is_done(self) -> bool:
        """Whether tuning is finished or turned off."""
        return self._tries <= 0 or self.seconds <= 0

    def learn(self, parts: Sequence[Part], watchdog: Watchdog) -> list[Bucket]:
        """Tunes the limits with these parts, stores them in the cache, and returns the buckets.

        Returns no buckets if there are no parts, if the config or continuous batching sets the limits, or if the model is
        compiled or refuses a part. In the last case the next parts may be tried, TRIES times in all.
        """
        self._tries -= 1 if parts else 0
        if self._key is None or not parts:
            return []

        def run(batch: list[Part]) -> float:
            with watchdog.on("forward", sorted({part.key for part in batch})):
                started = time.perf_counter()
                try:
                    self._phases.forward(batch)
                except Exception as error:  # models raise different errors
                    if is_out_of_memory(error):
                        raise
                    if is_own_fault(error):
                        raise FaultError.of(error) from error
                    raise RowError.wrap("forward", error) from error
                return time.perf_counter() - started

        try:
            buckets = tuning.tune(parts, run, self.seconds)
        except RowError:  # the row fails later, when its block is run; the next block is tried
            return []
        self._tries = 0
        if buckets:
            remember(self._key, buckets)
        self._set(buckets)
        return buckets

    def _set(self, buckets: Sequence[Bucket]) -> None:
        """Changes the limits in place, since other objects hold them, and running out of memory lowers them."""
        tuned = tuning.limits(buckets, self.limits)
        self.limits.elements, self.limits.by_length, self.limits.overhead = tuned.elements, tuned.by_length, tuned.overhead
