"""What an output folder says of its job: enough to compare, and no secret."""

import json

import pytest

from dray.jobs.inputs.dataset import Columns
from dray.jobs.outputs.fingerprint import claim, fingerprint, public, refuse_different, without_secrets
from dray.jobs.storage.folder import output_folder
from dray.pipelines.config import parse_config
from dray.pipelines.errors import OutputError
from dray.pipelines.models.choosing import named_model
from dray.pipelines.models.resolved import ResolvedModel
from dray.pipelines.tasks.names import find_task


def config(tmp_path, **keys):
    raw = {"task": "text-classification", "input": {"path": "in.parquet"}, "output": {"path": str(tmp_path / "out")}}
    return parse_config({**raw, **keys})


def work(job, weights="1"):
    name, revision = named_model(job)
    model = ResolvedModel(job, find_task(job.task), "task", name, revision, "hub", weights)
    return fingerprint(model, Columns({"text": "text"}, (), None))


def test_the_default_model_is_recorded_by_name(tmp_path):
    recorded = work(config(tmp_path))
    assert recorded["model"] == "distilbert/distilbert-base-uncased-finetuned-sst-2-english"
    assert recorded["revision"] == "714eb0f"
    assert work(config(tmp_path, model="a/b"))["revision"] is None


def test_tokens_are_neither_written_nor_compared(tmp_path):
    output = output_folder(config(tmp_path))
    with_token = config(tmp_path, model="a/b", model_kwargs={"token": "hf_secret", "attn_implementation": "eager"})
    other = config(tmp_path, model="a/b", model_kwargs={"token": "other", "attn_implementation": "eager"})
    without = config(tmp_path, model="a/b", model_kwargs={"attn_implementation": "eager"})
    for job in (with_token, other, without):
        refuse_different(output, work(job))
        claim(output, work(job), job, fresh=False)
        written = output.read("_dray/fingerprint.json") + output.read("_dray/config.json")
        assert b"secret" not in written
        assert b"eager" in written
    sdpa = config(tmp_path, model="a/b", model_kwargs={"token": "hf_secret", "attn_implementation": "sdpa"})
    with pytest.raises(OutputError, match=r"model_kwargs.attn_implementation was 'eager', not 'sdpa'"):
        refuse_different(output, work(sdpa))


def test_what_is_a_secret():
    secrets = {"token": "a", "hf_token": "b", "key": "c", "aws_secret_access_key": "d", "client_secret": "e", "password": "f"}
    harmless = {"key_mapping": {"^a": "b"}, "pad_token": "<pad>", "eos_token_id": 3, "token": True, "names": ["key"]}
    assert set(without_secrets(secrets).values()) == {"***"}
    assert without_secrets({"client_kwargs": [secrets]}, None) == {"client_kwargs": [{}]}
    assert without_secrets(harmless) == harmless


def test_the_written_config_is_the_jobs(tmp_path):
    job = config(tmp_path, model="a/b", model_kwargs={"max_memory": {0: "1GiB"}, "token": "hf_secret"})
    shown = json.loads(public(job))
    assert shown["model_kwargs"] == {"max_memory": {"0": "1GiB"}, "token": "***"}
    assert "storage_options" not in shown["input"]
