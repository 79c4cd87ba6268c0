"""`import dray`: what the command line does, as functions that return and raise."""

import json
import signal
import subprocess
import sys
import threading

import pyarrow.dataset as pads
import pytest
import yaml
from support import builders
from support.jobs import text_job, write_texts
from support.places import ROOT

import dray

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def raw(models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(12), 2)
    return text_job(models, tmp_path)


def test_a_job_from_a_dict_a_file_or_a_config_and_its_results(raw, tmp_path):
    summary = dray.run(raw, overrides={"engine.batch": 4, "parameters.top_k": 1})
    assert (summary.rows_in, summary.rows_ok, summary.rows_failed) == (12, 12, 0)
    assert summary["rows_ok"] == dict(summary)["rows_ok"] == 12
    assert json.loads((tmp_path / "out/_dray/summary.json").read_text()) == json.loads(json.dumps(dict(summary)))
    dataset = dray.load(tmp_path / "out")
    assert isinstance(dataset, pads.Dataset)
    assert dataset.count_rows() == 12
    assert {"id", "source", "n", "prediction"} == set(dataset.schema.names)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
    again = dray.run(tmp_path / "job.yaml", overrides={"engine.batch": 4, "parameters.top_k": 1})
    assert (again.rows_ok, again.rows_skipped) == (0, 12)
    file = next((tmp_path / "out/data/status=ok").iterdir())
    file.with_name(f".{file.stem}0.parquet.part").write_bytes(b"half of a file that is being written")
    assert dray.load(tmp_path / "out").count_rows() == 12
    config = dray.JobConfig.model_validate(raw)
    assert dray.run(config, fresh=True, overrides={"output.format": "jsonl"}).rows_ok == 12
    assert dray.load(str(tmp_path / "out")).to_table(columns=["n"]).num_rows == 12


def test_a_plan_says_what_a_config_means_and_why(raw):
    plan = dray.plan(raw)
    assert plan.job.rows_left == 12
    assert {choice.key for choice in plan.choices} == {
        f"engine.{key}" for key in ("device", "dtype", "layout", "copies", "batch")
    }
    table = str(plan)
    for said in ("text-classification, from the config", "text <- text", "engine.device", "the cluster has no GPU"):
        assert said in table
    assert "as the config says" in str(dray.plan(raw, overrides={"engine.batch": 8}))


def test_failed_rows_are_data_and_may_be_retried(raw, tmp_path):
    broken = {**raw, "parameters": {"truncation": False}, "errors": {"max_failed_fraction": 1.0}}
    write_texts(tmp_path / "more", ["good", "word " * 3000], 1)
    config = {**broken, "input": {"path": str(tmp_path / "more")}}
    assert dray.run(config).rows_failed == 1
    (failed,) = dray.load(tmp_path / "out", status="failed").to_table().to_pylist()
    assert "positions" in failed["error"]["message"]
    assert dray.retry(config).rows_failed == 1
    verification = dray.verify(config, sample=1)
    assert verification.problems == []


def test_mistakes_are_exceptions(raw, tmp_path):
    with pytest.raises(dray.ConfigError, match=r"unknown key engine\.bach, did you mean batch"):
        dray.run(raw, overrides={"engine.bach": 1})
    with pytest.raises(dray.UsageError, match="cannot read the config"):
        dray.run(tmp_path / "nothing.yaml")
    with pytest.raises(dray.OutputError, match="holds no rows of status ok; name the output folder of a job"):
        dray.load(tmp_path)
    write_texts(tmp_path / "bad", ["good", "word " * 3000], 1)
    with pytest.raises(dray.JobError, match="1 of 2 rows failed"):
        dray.run({**raw, "input": {"path": str(tmp_path / "bad")}})


def test_in_a_thread_as_in_a_notebook_no_signal_is_touched(raw):
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    done = []
    thread = threading.Thread(target=lambda: done.append(dray.run(raw)))
    thread.start()
    thread.join(120)
    assert done[0].rows_ok == 12
    assert before == {number: signal.getsignal(number) for number in before}


def test_importing_it_takes_no_time():
    code = "import sys, dray; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert not set(loaded.split()) & {"ray", "torch", "transformers", "pyarrow", "numpy", "pydantic", "yaml"}
    assert set(dray.__all__) <= set(dir(dray)) | {"JobConfig"}
