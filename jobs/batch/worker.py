"""What every actor with a pipeline needs: loading the pipeline, a watchdog, and measurements of the process."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import pyarrow as pa
from ray.actor import ActorHandle

from dray.jobs.batch.ledger import LedgerClient
from dray.jobs.storage.s3 import install_retrying_s3
from dray.pipelines.batching.parts import Part
from dray.pipelines.engine.model_threads import ModelThreads
from dray.pipelines.engine.tuning_cache import Tuner
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.memory import peak_bytes
from dray.pipelines.meter import Meter
from dray.pipelines.models.loading import in_passing_thread, load_phases
from dray.pipelines.models.resolved import ResolvedModel
from dray.pipelines.phases.phases import Phases


@dataclass(frozen=True)
class WorkerSpec:
    """Everything an actor needs to make its pipeline.

    Attributes:
        model: the model, its task and the job's config.
        schema: the Arrow type of a prediction.
        threads: torch's number of threads.
        accelerator: whether the actor has a GPU.
        ledger: the job's ledger; None: the worker reports nothing.
        tuning_s: seconds that the worker may spend on finding the best batch size, where it is not known.
    """

    model: ResolvedModel
    schema: pa.DataType
    threads: int
    accelerator: bool
    ledger: ActorHandle | None = None
    tuning_s: float = 0.0

    def load(self, weights: bool) -> Phases:
        """Loads the pipeline into this process."""
        import torch

        install_retrying_s3()
        torch.set_num_threads(self.threads)
        device = "cuda" if self.accelerator and torch.cuda.is_available() else "cpu"
        return in_passing_thread(lambda: load_phases(self.model, weights, device))

    def model_threads(self, phases: Phases) -> ModelThreads:
        """The threads that run the model of `phases`, which this worker has loaded. Sets torch's number of threads."""
        return ModelThreads(phases, self.threads, apart=True)

    def tuner(self, phases: Phases) -> Tuner:
        """The tuner of the batch limits of `phases`. The limits hold for torch's present number of threads."""
        return Tuner(phases, self.model.config.engine.batch, self.model.identity, self.tuning_s)

    def supervision(self, operator: str) -> tuple[Watchdog, LedgerClient]:
        """The worker's watchdog and its client of the ledger."""
        watchdog = Watchdog(self.model.config.errors.timeout_s)
        return watchdog, LedgerClient(self.ledger, watchdog, operator)


def learn(tuner: Tuner, model_threads: ModelThreads, parts: Sequence[Part], watchdog: Watchdog) -> Meter:
    """Finds the batch limits, in a thread that runs the model. Its time counts as time in which the model runs.

    Returns:
        A meter with the time of the first forward; an empty one where there are no `parts`.
    """
    began, started = time.time(), time.perf_counter()
    model_threads.begin(partial(tuner.learn, parts, watchdog)).result()
    if not parts:
        return Meter()
    model_threads.ran(model_threads.count * (time.perf_counter() - started))
    return Meter(first_forward=began)


class Stopwatch:
    """Measures the seconds in which an actor's model does not run, from its first block on, summed over its threads."""

    def __init__(self, model_threads: ModelThreads) -> None:
        self._model_threads, self._lock = model_threads, threading.Lock()
        self._since: float | None = None
        self._busy_s = self._over = 0.0

    def start(self) -> None:
        """Starts the measurement, at the first call. To be called when a block begins."""
        with self._lock:
            if self._since is None:
                self._since, self._busy_s = time.perf_counter(), self._model_threads.busy_s

    def waited(self) -> float:
        """Seconds without the model since the last call. A forward counts when it ends, also for the time before that call."""
        with self._lock:
            now, busy_s = time.perf_counter(), self._model_threads.busy_s
            assert self._since is not None
            waited = self._model_threads.count * (now - self._since) - (busy_s - self._busy_s) - self._over
            self._since, self._busy_s, self._over = now, busy_s, max(0.0, -waited)
            return max(0.0, waited)


def account(meters: Sequence[Meter], own: Meter) -> None:
    """Adds the process's figures, `own` and its peak memory, to the meter of a block's first row."""
    for meter in meters[:1]:
        meter.add(own)
        meter.add(Meter(peak_bytes=peak_bytes()))
