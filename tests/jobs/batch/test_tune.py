"""`dray tune` tries batches and copies on the cluster, with rows of the input, and jobs use what it found."""

import pytest
from support import builders, drilling
from support.jobs import rows_of, write_texts

from dray.jobs.batch.job import run
from dray.jobs.batch.tune import CopyLayout, TuningResult, chosen, tune
from dray.pipelines.batching.parts import Limits
from dray.pipelines.batching.tuning import Bucket, Trial
from dray.pipelines.config import parse_config
from dray.pipelines.engine.tuning_cache import TuningKey, recall, recall_threads
from dray.pipelines.errors import JobError

SUBJECT = TuningKey("abc", "text-classification", "float32", "cpu EPYC", 2, "2.13")


def test_the_table_says_what_was_tried_and_taken():
    trials = (Trial(1, 64, 100.0, 0.64), Trial(2, 128, 190.0, 0.67), Trial(4, 256, 191.0, 1.34), Trial(8, 512, 0.0, 0.0))
    layouts = [(CopyLayout(1, 2), 50.0), (CopyLayout(2, 1), 75.0)]
    found = TuningResult(SUBJECT, [Bucket(64, 128, trials)], Limits.budget(512), layouts, CopyLayout(2, 1))
    assert found.table().splitlines() == [
        "  model                 text-classification, float32",
        "  on                    cpu EPYC",
        "  1 x 2 threads         1.00 times as fast",
        "  2 x 1 threads         1.50 times as fast  <- taken",
        "  up to 64, batch of 1  1.00 times as fast",
        "  up to 64, batch of 2  1.90 times as fast  <- taken",
        "  up to 64, batch of 4  1.91 times as fast",
        "  up to 64, batch of 8  out of memory",
    ]


def test_the_table_of_rows_that_share_no_batch():
    assert "512 elements stay the limit" in TuningResult(SUBJECT, [], Limits.budget(512), [], None).table()


@pytest.mark.slow
def test_what_is_found_is_used(ray_session, tmp_path):
    model = drilling.trouble_model(tmp_path / "model", seconds=0.02, fitting=3000)
    write_texts(tmp_path / "in", builders.texts(200), 2)
    raw = {
        "task": "text-classification", "model": model, "model_kwargs": {"trust_remote_code": True},
        "input": {"path": str(tmp_path / "in")}, "output": {"path": str(tmp_path / "out")},
    }  # fmt: skip
    found = tune(parse_config(raw))
    assert not (tmp_path / "out").exists()
    assert [layout for layout, _ in found.layouts] == [CopyLayout(1, 2), CopyLayout(2, 1)]
    assert found.layout == CopyLayout(2, 1)  # two that sleep do twice as much
    assert found.buckets
    assert all(1500 <= bucket.elements <= 3000 for bucket in found.buckets)  # the more the better, as long as it fits
    assert "out of memory" in found.table()
    assert recall(found.subject) == found.buckets
    assert recall_threads(found.subject.model, "text-classification") == 1
    summary = run(parse_config(raw))
    assert summary["out_of_memory"] == 0
    assert summary["plan"]["threads"] == 1 or summary["plan"]["model"]["actors"] == 1
    assert len(rows_of(tmp_path / "out")) == 200


@pytest.mark.slow
def test_a_model_that_refuses_every_row_is_told(ray_session, tmp_path, monkeypatch):
    monkeypatch.setattr("dray.jobs.batch.tune.LAYOUT_SECONDS", 0.2)
    model = drilling.trouble_model(tmp_path / "model", fitting=0)
    write_texts(tmp_path / "in", builders.texts(20), 1)
    raw = {
        "task": "text-classification", "model": model, "model_kwargs": {"trust_remote_code": True},
        "input": {"path": str(tmp_path / "in")}, "output": {"path": str(tmp_path / "out")},
    }  # fmt: skip
    with pytest.raises(JobError, match="the model refuses every row"):
        tune(parse_config(raw))


def test_more_copies_are_taken_only_where_they_gain_much():
    one, two, four = CopyLayout(1, 4), CopyLayout(2, 2), CopyLayout(4, 1)
    assert chosen([(one, 100.0), (two, 110.0), (four, 105.0)]) == one
    assert chosen([(one, 100.0), (two, 140.0), (four, 160.0)]) == two
    assert chosen([]) is None
