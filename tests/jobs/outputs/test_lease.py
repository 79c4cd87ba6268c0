"""Two runs never write to one folder: the second is told of the first; a dead run's folder is free."""

import json
import subprocess
import sys
import threading

import pytest

from dray.jobs.batch.preflight import check
from dray.jobs.outputs import lease
from dray.jobs.outputs.fingerprint import FINGERPRINT
from dray.jobs.outputs.lease import LEASE, Lease, refuse_other
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import parse_config
from dray.pipelines.errors import JobError, OutputError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    monkeypatch.setattr(lease, "SETTLED_S", 0.05)


@pytest.fixture(params=["local", "memory"])
def output(request, tmp_path):
    """A folder on disk, and one in a store."""
    return Folder(str(tmp_path) if request.param == "local" else f"memory://{tmp_path.name}/out", {})


def test_the_second_run_is_refused_and_told_of_the_first(output):
    first, second = Lease(output), Lease(output)
    first.take()
    with pytest.raises(OutputError, match=r"is being written by the run that process \d+ on .* started at \d{4}-"):
        second.take()
    assert not first.is_lost
    first.release()
    second.take()
    second.release()
    assert output.read(LEASE) is None


def test_a_killed_runs_folder_is_free_at_once(output):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    lease_of_dead = {**Lease(output)._own, "pid": dead.pid, "run": "dead"}
    output.write(LEASE, json.dumps(lease_of_dead))
    mine = Lease(output)
    mine.take()
    mine.release()


def test_a_process_of_the_same_number_is_not_the_same_run(output):
    earlier = {**Lease(output)._own, "run": "earlier", "process_started": 1.0}
    output.write(LEASE, json.dumps(earlier))
    mine = Lease(output)
    mine.take()
    mine.release()


def test_a_run_on_another_machine_is_known_by_its_beat(output):
    elsewhere = {**Lease(output)._own, "run": "far", "host": "elsewhere", "pid": 1}
    output.write(LEASE, json.dumps(elsewhere))
    ended = threading.Event()

    def beat():
        number = 0
        while not ended.wait(0.03):
            number += 1
            output.write(LEASE, json.dumps({**elsewhere, "beat": number}))

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(OutputError, match="process 1 on elsewhere"):
        Lease(output).take()
    ended.set()
    thread.join()
    mine = Lease(output)  # now it is silent
    mine.take()
    mine.release()


def test_of_several_at_once_one_gets_it(output):
    leases, taken = [Lease(output) for _ in range(8)], []
    start = threading.Barrier(8)

    def take(mine):
        start.wait()
        try:
            mine.take()
        except OutputError:
            return
        taken.append(mine)

    threads = [threading.Thread(target=take, args=(mine,)) for mine in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (only,) = taken
    only.release()


def test_a_run_whose_folder_was_taken_stops(output):
    mine = Lease(output)
    mine.take()
    output.write(LEASE, json.dumps({**mine._own, "run": "other"}))
    mine._thread.join(5)
    assert mine.is_lost
    with pytest.raises(JobError, match="has lost"):
        refuse_other(output, mine.run)
    refuse_other(output, "other")
    mine.release()
    assert json.loads(output.read(LEASE))["run"] == "other"


def test_a_job_is_refused_before_it_touches_anything(models, tmp_path):
    (tmp_path / "texts.txt").write_text("the\na\n")
    raw = {"model": models.text_classifier, "input": {"path": str(tmp_path / "texts.txt")}}
    config = parse_config({**raw, "output": {"path": str(tmp_path / "out")}})
    running = check(config)
    with pytest.raises(OutputError, match="is being written by the run"):
        check(config, fresh=True)
    assert running.output.read(FINGERPRINT) is not None
    assert check(config, dry=True).lease is None
    running.lease.release()
    again = check(config, fresh=True)
    assert again.output.read(LEASE) is not None
    again.lease.release()
