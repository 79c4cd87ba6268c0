"""What every actor with a pipeline has."""

import math
import time
from types import SimpleNamespace

from dray.jobs.batch import worker
from dray.jobs.batch.worker import Stopwatch, learn
from dray.pipelines.engine.model_threads import ModelThreads


def test_waiting_is_what_lanes_do_not_run(monkeypatch):
    now, model_threads = [0.0], ModelThreads(phases=None)
    monkeypatch.setattr(worker.time, "perf_counter", lambda: now[0])
    stopwatch = Stopwatch(model_threads)
    model_threads.ran(100.0)  # before the first block
    stopwatch.start()
    now[0] = 10.0
    model_threads.ran(8.0)
    assert stopwatch.waited() == 2.0
    stopwatch.start()
    now[0] = 15.0  # two blocks side by side, in one batch of which the first ends
    assert stopwatch.waited() == 5.0
    now[0] = 16.0
    model_threads.ran(6.0)
    assert stopwatch.waited() == 0.0
    now[0] = 20.0
    assert stopwatch.waited() == 0.0  # that was counted too early
    now[0] = 22.0
    assert stopwatch.waited() == 1.0


def test_trials_of_batches_are_time_in_which_the_model_runs():
    model_threads = ModelThreads(phases=None)
    tuner = SimpleNamespace(learn=lambda parts, watchdog: time.sleep(0.1))
    stopwatch = Stopwatch(model_threads)
    stopwatch.start()
    started = time.time()
    meter = learn(tuner, model_threads, ["part"], watchdog=None)
    assert stopwatch.waited() < 0.1 <= model_threads.busy_s
    assert started <= meter.first_forward <= time.time() - 0.1
    assert learn(tuner, model_threads, [], watchdog=None).first_forward == math.inf
