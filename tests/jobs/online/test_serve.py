"""`dray serve` as its users have it: a command, a port, their own client."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import ray
import yaml
from support.comparing import differences
from support.places import free_port
from support.serving import Served, ask_all
from transformers import pipeline

from dray.pipelines.config import ServeConfig
from dray.pipelines.errors import ConfigError

TEXT = "the people who made this"


@pytest.fixture(scope="module")
def served(cluster, models, tmp_path_factory):
    service = Served(
        tmp_path_factory.mktemp("serve"), cluster.address, "text-classification", models.text_classifier, keys="letmein"
    )
    yield service
    assert "finishing" in service.stop()


def test_the_hub_client_works_unchanged(served, models):
    code = f"""
from huggingface_hub import InferenceClient
client = InferenceClient(base_url={served.url!r}, token="letmein")
print(json.dumps(client.text_classification({TEXT!r}, top_k=2)))
"""
    done = subprocess.run(
        [sys.executable, "-c", "import json" + code], env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = pipeline("text-classification", model=models.text_classifier)(TEXT, top_k=2)
    assert not differences(json.loads(done.stdout), expected)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"model": "./nothing-here"}, "nothing-here"),
        ({"parameters": {"batch_size": 4}}, "engine.batch limits them"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(models, tmp_path, sections, says):
    raw = {"task": "text-classification", "model": models.text_classifier, "input": {"path": "-"}, "output": {"path": "-"}}
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump({**raw, **sections}))
    done = subprocess.run(
        [sys.executable, "-m", "dray.jobs.cli", "serve", str(tmp_path / "serve.yaml"), "--address", "local"],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_port_that_is_taken():
    from dray.jobs.online.host import _refuse_taken

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match=r"serve\.port: nobody can listen at .*: Address already in use"):
            _refuse_taken(ServeConfig(port=other.getsockname()[1]))
    _refuse_taken(ServeConfig(port=free_port()))


def test_others_are_not_let_in(served):
    assert [status for status, _, _ in ask_all(served.url, [TEXT] * 3)] == [401] * 3


def test_prometheus_is_told(served, ray_session, models):
    """On the port of each node that Ray exports its metrics at."""
    ports = [node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]]
    request = urllib.request.Request(f"{served.url}/", json.dumps({"inputs": TEXT}).encode())
    request.add_header("Authorization", "Bearer letmein")
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request).read()
    names = ("queue_wait_seconds", "forward_seconds", "batch_fill", "padded_elements", "request_seconds")
    wanted = [f"dray_{name}" for name in names] + ['status="200"', 'status="401"']
    deadline, lines = time.monotonic() + 60, []
    while not all(any(each in line for line in lines) for each in wanted) and time.monotonic() < deadline:
        time.sleep(1)
        found = "".join(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode() for port in ports)
        lines = [line for line in found.splitlines() if "dray_" in line and not line.startswith("#")]
    assert [each for each in wanted if not any(each in line for line in lines)] == [], lines[:40]
