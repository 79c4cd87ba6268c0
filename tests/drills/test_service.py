"""The service while things go wrong: replicas die, more is asked than it can take, it is told to stop."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import aiohttp
import psutil
import pytest
import yaml
from support import builders
from support.places import ROOT, free_port
from support.serving import Served, ask_all

SECONDS = 0.2  # that the model takes for a batch
TEXTS = builders.texts(200, median=8)
RAY = Path(sys.executable).parent
# "": on the cluster, behind Serve's proxy; "local": a Ray of its own, where the replica listens itself
EVERYWHERE = pytest.mark.parametrize("where", ["", "local"], ids=["cluster", "own"])


@pytest.fixture
def service(cluster, slow_model, tmp_path):
    started = []

    def start(model: str = slow_model, errors: dict | None = None, where: str = "", **serve) -> Served:
        sections = {"engine": {"batch": 4}, "errors": errors or {}, "serve": serve, "model_kwargs": {"trust_remote_code": True}}
        started.append(Served(tmp_path, where or cluster.address, "text-classification", model, **sections))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.stop()


def replicas() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if "ServeReplica:dray" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_a_killed_replica_loses_nothing_that_can_be_asked_again(service, book):
    served = service(min_replicas=2, max_replicas=2)
    assert len(replicas()) == 2
    victim = replicas()[0]
    killer = threading.Timer(1.0, victim.kill)
    killer.start()
    answers = ask_all(served.url, TEXTS, at_once=32, tries=20)
    assert not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE
    assert {status for status, _, _ in answers} == {200}
    deadline = time.monotonic() + 120
    while len(replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    assert len(replicas()) == 2
    book("SIGKILL to a replica", "another took its place", f"{len(answers)} requests = {len(answers)} answers")


@pytest.mark.slow
@EVERYWHERE
def test_more_than_it_can_take_is_refused_and_it_stays_healthy(service, where, book):
    served = service(where=where, max_requests=8)
    answers = ask_all(served.url, TEXTS, at_once=100)
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    assert all("come again" in content["error"] for status, content, _ in answers if status == 503)
    assert {status for status, _, _ in ask_all(served.url, TEXTS[:8], at_once=2)} == {200}
    book("100 at once where 8 fit", "told to come again", f"{statuses.count(200)} answers + {statuses.count(503)} refused")


@pytest.mark.slow
def test_replicas_are_added_where_there_is_much_to_do(service, book):
    served = service(min_replicas=1, max_replicas=2, max_requests=64)
    assert len(replicas()) == 1
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            ask_all(served.url, TEXTS, at_once=64)

    asking = threading.Thread(target=ask)
    asking.start()
    deadline = time.monotonic() + 120
    while len(replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(0.5)
    stop.set()
    asking.join()
    assert len(replicas()) == 2
    book("64 clients", "a second replica was started", "1 to 2 replicas")


@pytest.mark.slow
@EVERYWHERE
@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
def test_what_was_begun_is_finished(service, where, blow, book):
    served = service(where=where)
    answers: list = []
    asking = threading.Thread(target=lambda: answers.extend(ask_all(served.url, TEXTS[:40], at_once=40)))
    asking.start()
    time.sleep(1.0)
    assert "finishing what is under way" in served.stop(blow)
    asking.join()
    assert [status for status, _, _ in answers] == [200] * 40
    book(f"{blow.name} to dray serve", "what was begun was finished", "40 requests = 40 answers")


@pytest.mark.slow
@EVERYWHERE
@pytest.mark.parametrize("blow", ["hang", "ruin", "crash"])
def test_work_that_a_replica_cannot_survive(service, trouble, where, blow, book):
    served = service(trouble, errors={"timeout_s": 3}, where=where)
    (before,) = replicas()
    ((status, _, _),) = ask_all(served.url, [f"time {blow} water"])
    assert status in (0, *range(500, 600))
    answers = ask_all(served.url, TEXTS[:20], at_once=4, tries=60)
    assert {status for status, _, _ in answers} == {200}
    (after,) = replicas()
    assert before.pid != after.pid
    book(f"a request at which the model does {blow}", "another replica took the place", "it failed, 20 others = 20 answers")


@pytest.mark.slow
def test_who_hangs_up_gives_the_place_to_others(service):
    """Where the replica listens itself, as behind Serve's proxy."""
    served = service(where="local", max_requests=40)

    def under_way() -> int:
        with urllib.request.urlopen(f"{served.url}/healthz") as answer:
            return json.load(answer)["under_way"]

    async def ask_and_leave() -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.3)) as session:
            body = {"inputs": TEXTS[:40]}
            with contextlib.suppress(TimeoutError):
                await session.post(served.url, json=body)

    asyncio.run(ask_and_leave())
    deadline = time.monotonic() + 20
    while under_way() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert under_way() == 0


@pytest.mark.slow
@pytest.mark.parametrize("how", ["run", "deploy"])
def test_serves_own_commands(cluster, models, tmp_path, how):
    port = free_port()
    raw = {"task": "text-classification", "model": models.text_classifier, "input": {"path": "-"}, "output": {"path": "-"}}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
    environment = {**os.environ, "RAY_ADDRESS": cluster.address, "PYTHONPATH": str(ROOT)}
    if how == "run":
        command = [RAY / "serve", "run", "dray.jobs.serve:app", f"config={tmp_path}/job.yaml"]
        url = "http://127.0.0.1:8000"
    else:
        deployed = yaml.safe_load((ROOT / "cluster/serve.yaml").read_text())
        deployed["http_options"]["port"] = port
        deployed["applications"][0]["args"]["config"] = str(tmp_path / "job.yaml")
        (tmp_path / "deploy.yaml").write_text(yaml.safe_dump(deployed))
        command = [RAY / "serve", "deploy", str(tmp_path / "deploy.yaml"), "--address", cluster.dashboard]
        url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        list(map(str, command)), env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        (answer,) = ask_all(url, ["the people who made this"], tries=60)
        assert answer[0] == 200, answer
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
        subprocess.run(
            [RAY / "serve", "shutdown", "--address", cluster.dashboard, "-y"], env=environment, check=True, capture_output=True
        )


@pytest.mark.slow
@EVERYWHERE
def test_weights_that_cannot_be_read_are_named_where_the_service_is_started(cluster, models, tmp_path, where, book):
    shutil.copytree(models.text_classifier, tmp_path / "model")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    raw = {"task": "text-classification", "model": str(tmp_path / "model"), "serve": {"port": free_port()}}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({**raw, "input": {"path": "-"}, "output": {"path": "-"}}))
    done = subprocess.run(
        [sys.executable, "-m", "dray.jobs.cli", "serve", str(tmp_path / "serve.yaml"), "--address", where or cluster.address],
        capture_output=True, text=True, timeout=400, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith(f"dray: the service does not come up: model: cannot load {tmp_path / 'model'}")
    assert "incomplete" in line
    assert "Traceback" not in done.stdout
    book("cut-off weights", "the service does not start", line[:100])
