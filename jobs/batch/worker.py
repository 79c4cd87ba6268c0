"""What every actor that holds a pipeline has: the pipeline, a watch over it, and figures of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from ray.actor import ActorHandle

from dray.jobs.batch.ledger import LedgerClient
from dray.jobs.batch.memory import peak_bytes
from dray.jobs.storage.s3 import install
from dray.pipelines.batching.parts import Part
from dray.pipelines.engine.model_threads import ModelThreads
from dray.pipelines.engine.tuning_cache import Tuner
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.meter import Meter
from dray.pipelines.models.loading import in_passing_thread, load_phases
from dray.pipelines.models.resolved import ResolvedModel
from dray.pipelines.phases.phases import Phases


@dataclass(frozen=True)
class Worker:
    """What an actor needs to make its pipeline.

    Attributes:
        model: the model, its task and the job's config.
        schema: of a prediction.
        threads: of torch.
        accelerator: whether the actor was given one.
        ledger: of the job; None where nobody is to hear what becomes of the worker.
        tuning_s: seconds that may be spent on finding how large a batch should be, where that is not known.
    """

    model: ResolvedModel
    schema: pa.DataType
    threads: int
    accelerator: bool
    ledger: ActorHandle | None = None
    tuning_s: float = 0.0

    def load(self, weights: bool) -> Phases:
        """The pipeline, in this process."""
        import torch

        install()
        torch.set_num_threads(self.threads)
        device = "cuda" if self.accelerator and torch.cuda.is_available() else "cpu"
        return in_passing_thread(lambda: load_phases(self.model, weights, device))

    def model_threads(self, phases: Phases) -> ModelThreads:
        """The threads that run the model of `phases`, which this worker has loaded; torch has theirs from now on."""
        return ModelThreads(phases, self.threads, apart=True)

    def tuner(self, phases: Phases) -> Tuner:
        """The limits of the batches of `phases`, which this worker has loaded: of one with as many threads as torch now has."""
        return Tuner(phases, self.model.config.engine.batch, self.model.identity, self.tuning_s)

    def supervision(self, operator: str) -> tuple[Watchdog, LedgerClient]:
        """What looks after the worker: its own watch, and its side of the ledger."""
        watchdog = Watchdog(self.model.config.errors.timeout_s)
        return watchdog, LedgerClient(self.ledger, watchdog, operator)


def learn(tuner: Tuner, model_threads: ModelThreads, parts: Sequence[Part], watchdog: Watchdog) -> Meter:
    """Finds the limits of batches in a thread that runs the model. What it takes is time in which the model runs."""
    began, started = time.time(), time.perf_counter()
    model_threads.begin(partial(tuner.learn, parts, watchdog)).result()
    if not parts:
        return Meter()
    model_threads.ran(model_threads.count * (time.perf_counter() - started))
    return Meter(first_forward=began)


class Stopwatch:
    """Seconds in which an actor's model does not run, from its first block on, summed over its lanes."""

    def __init__(self, model_threads: ModelThreads) -> None:
        self._model_threads, self._lock = model_threads, threading.Lock()
        self._since: float | None = None
        self._busy_s = self._over = 0.0

    def start(self) -> None:
        """Called when a block begins."""
        with self._lock:
            if self._since is None:
                self._since, self._busy_s = time.perf_counter(), self._model_threads.busy_s

    def waited(self) -> float:
        """Since it was asked last. What began before that counts when it ends, and is then taken off."""
        with self._lock:
            now, busy_s = time.perf_counter(), self._model_threads.busy_s
            assert self._since is not None
            waited = self._model_threads.count * (now - self._since) - (busy_s - self._busy_s) - self._over
            self._since, self._busy_s, self._over = now, busy_s, max(0.0, -waited)
            return max(0.0, waited)


def account(meters: Sequence[Meter], own: Meter) -> None:
    """Puts down, with the first row of a block, what is the process's: `own`, and its memory."""
    for meter in meters[:1]:
        meter.add(own)
        meter.add(Meter(peak_bytes=peak_bytes()))
