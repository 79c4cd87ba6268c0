"""Activity that hangs ends its process, and says which work it was."""

import subprocess
import sys
import time

import pytest
from support.places import ROOT

from dray.pipelines.engine.watchdog import Watchdog

PROCESS = """
import ctypes, sys, threading, time
from dray.pipelines.engine.watchdog import Watchdog

def hang():
    time.sleep(60)

def freeze():
    ctypes.PyDLL(None).sleep(60)

def ruin():
    watch.end_process(RuntimeError("the card is gone"))

def quick():
    pass

watch = Watchdog(1.0)
watch.start(lambda work, error: print(work.stage, list(work.keys), error.kind, flush=True))
for name in sys.argv[1:]:
    with watch.on("forward", [3, 4], 1):
        globals()[name]()
"""


def run(*steps: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", PROCESS, *steps], capture_output=True, text=True, cwd=ROOT, timeout=50)


@pytest.mark.parametrize(("step", "said"), [("hang", "forward [3, 4] TimeoutError"), ("ruin", "forward [3, 4] RuntimeError")])
def test_the_last_work_is_told(step, said):
    done = run("quick", step)
    assert (done.returncode, done.stdout.strip()) == (1, said)
    assert "forward of 2 rows ends this process" in done.stderr


def test_native_code_that_keeps_pythons_lock_is_ended_too(monkeypatch):
    done = run("freeze")
    assert done.returncode == 1
    assert "Timeout (0:00:0" in done.stderr  # with the stack


def test_work_in_time_is_left_alone():
    assert run(*["quick"] * 3).returncode == 0


def test_who_listens_hears_of_work_before_it_begins():
    watchdog, on_batch = Watchdog(60), []
    watchdog.on_activity = on_batch.append
    with watchdog.on("preprocess", [1]):
        assert [(work.stage, work.keys) for work in on_batch] == [("preprocess", [1])]
        assert time.monotonic() - on_batch[0].began < 5
    watchdog.on_activity = None
    with watchdog.on("preprocess", [2]):
        assert len(on_batch) == 1


def test_ruin_of_a_process_that_nobody_watches_is_an_error_like_others():
    watchdog = Watchdog(60)
    with watchdog.on("forward", [1]):
        watchdog.end_process(RuntimeError("the card is gone"))
