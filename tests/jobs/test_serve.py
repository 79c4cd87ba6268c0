"""`dray serve` as its users have it: a command, a port, their own client."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import yaml
from comparing import differences
from conftest import ROOT, free_port
from transformers import pipeline

TEXT = "the people who made this"


@pytest.fixture(scope="module")
def served(cluster, models, tmp_path_factory):
    """The address of a running service, and its process."""
    port, folder = free_port(), tmp_path_factory.mktemp("serve")
    raw = {"task": "text-classification", "model": models.text_classifier, "serve": {"port": port}}
    (folder / "serve.yaml").write_text(yaml.safe_dump({**raw, "input": {"path": "-"}, "output": {"path": "-"}}))
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "jobs.cli", "serve", str(folder / "serve.yaml")], cwd=ROOT, text=True,
        env={**os.environ, "RAY_ADDRESS": cluster.address, "DRAY_API_KEYS": "letmein"}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    said = ""
    deadline = time.monotonic() + 180
    while "serving" not in said and process.poll() is None and time.monotonic() < deadline:
        said += process.stdout.readline()
    assert f"at http://127.0.0.1:{port}" in said, said
    yield f"http://127.0.0.1:{port}", process
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=120)
    assert process.returncode == 0, rest
    assert "Traceback" not in rest


def test_the_hub_client_works_unchanged(served, models):
    code = f"""
from huggingface_hub import InferenceClient
client = InferenceClient(base_url={served[0]!r}, token="letmein")
print(json.dumps(client.text_classification({TEXT!r}, top_k=2)))
"""
    done = subprocess.run(
        [sys.executable, "-c", "import json" + code], env={**os.environ, "HF_HUB_OFFLINE": "0"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    expected = pipeline("text-classification", model=models.text_classifier)(TEXT, top_k=2)
    assert not differences(json.loads(done.stdout), expected)
