"""`dray serve` as its users have it: a command, a port, their own client."""

import json
import os
import subprocess
import sys
import time
import urllib.request

import pytest
import ray
from comparing import differences
from serving import Served, ask_all
from transformers import pipeline

TEXT = "the people who made this"


@pytest.fixture(scope="module")
def served(cluster, models, tmp_path_factory):
    service = Served(tmp_path_factory.mktemp("serve"), cluster, "text-classification", models.text_classifier, keys="letmein")
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
    deadline, found = time.monotonic() + 60, ""
    while not (all(f"dray_{name}" in found for name in names)) and time.monotonic() < deadline:
        time.sleep(1)
        found = "".join(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode() for port in ports)
    lines = [line for line in found.splitlines() if "dray_" in line and not line.startswith("#")]
    assert all(any(f"dray_{name}" in line for line in lines) for name in names), lines[:40]
    requests = [line for line in lines if "dray_requests" in line]
    assert {"200", "401"} <= {status for status in ("200", "401") for line in requests if f'status="{status}"' in line}
