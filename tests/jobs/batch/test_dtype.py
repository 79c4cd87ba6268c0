"""One precision for all workers and all runs of an output."""

import dataclasses
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import builders
from support.jobs import text_job, write_texts

from dray.jobs.batch import dtype as precision
from dray.jobs.batch.job import run
from dray.jobs.batch.preflight import check
from dray.jobs.cluster.plan import cluster_nodes, make_plan
from dray.jobs.storage.folder import PRECISION, output_folder
from dray.jobs.verification.verify import verify
from dray.pipelines.config import parse_config
from dray.pipelines.engine.precision import processor_has_bfloat16


@pytest.fixture
def fast(monkeypatch):
    """As on a machine with bfloat16, with a job that is long enough."""
    monkeypatch.setattr(precision, "_may_be_fast", lambda plan: True)
    decide_dtype = precision.decide_dtype
    monkeypatch.setattr(
        "dray.jobs.batch.job.decide_dtype", lambda job, plan: decide_dtype(job, dataclasses.replace(plan, tuning_s=1.0))
    )


def test_bfloat16_is_decided_once_and_kept(ray_session, models, tmp_path, fast, monkeypatch):
    write_texts(tmp_path / "in", builders.texts(20), 1)
    config = parse_config(text_job(models, tmp_path))
    monkeypatch.setattr(precision, "_tried", lambda job, plan: ("bfloat16", "it is faster"))
    assert run(config)["dtype"] == "bfloat16"
    assert json.loads(output_folder(config).read(PRECISION)) == {"dtype": "bfloat16", "why": "it is faster"}
    monkeypatch.setattr(precision, "_tried", lambda job, plan: pytest.fail("decided twice"))
    pq.write_table(pa.table({"text": ["water", "time"], "n": [5, 4]}), tmp_path / "in" / "new.parquet")
    summary = run(config)
    assert (summary["dtype"], summary["rows_ok"]) == ("bfloat16", 2)
    assert verify(config, sample=5).problems == []


def test_without_the_hardware_nothing_is_tried(ray_session, models, tmp_path, monkeypatch):
    write_texts(tmp_path / "in", builders.texts(4), 1)
    config = parse_config(text_job(models, tmp_path))
    monkeypatch.setattr(precision, "processor_has_bfloat16", lambda: False)
    assert run(config)["dtype"] == "auto"
    assert json.loads(output_folder(config).read(PRECISION))["why"] == "not tried"


def test_the_trial_runs_where_the_model_will(ray_session, models, tmp_path):
    """Here without the hardware: the worker that is asked says so."""
    write_texts(tmp_path / "in", builders.texts(20), 1)
    job = check(parse_config(text_job(models, tmp_path)), dry=True)
    plan = make_plan(cluster_nodes(), job.config.engine, job.work)
    dtype, why = precision._tried(job, plan)
    if processor_has_bfloat16():
        assert dtype in ("auto", "bfloat16")
    else:
        assert (dtype, why) == ("auto", "bfloat16 is not faster on this hardware")


def test_an_output_begun_without_a_decision_stays_as_it_is(ray_session, models, tmp_path, monkeypatch):
    """Rows of a run that decided nothing were made in the precision of the model."""
    write_texts(tmp_path / "in", builders.texts(20), 1)
    job = dataclasses.replace(check(parse_config(text_job(models, tmp_path)), dry=True), earlier=5)
    plan = dataclasses.replace(make_plan(cluster_nodes(), job.config.engine, job.work), tuning_s=1.0)
    monkeypatch.setattr(precision, "_may_be_fast", lambda plan: True)
    monkeypatch.setattr(precision, "_tried", lambda job, plan: ("bfloat16", "it is faster"))
    assert precision.decide_dtype(job, plan).engine.dtype == "auto"
