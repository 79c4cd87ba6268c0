"""Whole jobs on a real Ray cluster."""

import json
from collections import Counter

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import soundfile as sf
from support import builders
from support.comparing import differences
from support.jobs import rows_of, sound_bytes, text_job, write_texts
from transformers import pipeline

from dray.jobs.batch.job import run
from dray.pipelines.config import parse_config
from dray.pipelines.errors import JobError, OutputError

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.mark.parametrize("layout", ["fused", pytest.param("staged", marks=pytest.mark.slow)])
def test_texts_come_out_as_the_pipeline_gives_them_and_a_second_run_adds_nothing(models, tmp_path, layout):
    texts = builders.texts(130, seed=1)
    write_texts(tmp_path / "in", texts, 3)
    config = parse_config(text_job(models, tmp_path, engine={"layout": layout}))
    summary = run(config)
    assert (summary["rows_in"], summary["rows_ok"], summary["rows_failed"], summary["rows_skipped"]) == (130, 130, 0, 0)
    assert summary["plan"]["layout"] == layout
    assert 0.5 < summary["padding_efficiency"] <= 1
    assert summary["seconds_by_phase"]["forward"] > 0
    rows = rows_of(tmp_path / "out")
    assert len({row["id"] for row in rows}) == 130
    pipe = pipeline("text-classification", model=models.text_classifier)
    for row in rows:
        shard, position = row["id"].rsplit(":", 1)
        assert row["source"] == shard
        text = pq.read_table(shard)["text"][int(position)].as_py()
        assert row["n"] == len(text)
        assert differences(row["prediction"], pipe(text)) == []
    again = run(config)
    assert (again["rows_ok"], again["rows_skipped"]) == (0, 130)
    assert Counter(row["id"] for row in rows_of(tmp_path / "out")) == Counter(row["id"] for row in rows)
    assert "<title>" in (tmp_path / "out/_dray/report.html").read_text()
    assert json.loads((tmp_path / "out/_dray/summary.json").read_text())["rows_skipped"] == 130


def test_new_files_are_processed_and_other_parameters_refused(models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(20), 1)
    run(parse_config(text_job(models, tmp_path)))
    pq.write_table(pa.table({"text": ["water", "time"], "n": [5, 4]}), tmp_path / "in" / "new.parquet")
    summary = run(parse_config(text_job(models, tmp_path)))
    assert (summary["rows_in"], summary["rows_ok"], summary["rows_skipped"]) == (22, 2, 20)
    changed = parse_config(text_job(models, tmp_path, parameters={"top_k": 2}))
    with pytest.raises(OutputError, match=r"parameters.*--fresh"):
        run(changed)
    assert len(rows_of(tmp_path / "out")) == 22
    run(changed, fresh=True)
    assert {len(row["prediction"]) for row in rows_of(tmp_path / "out")} == {2}


@pytest.mark.parametrize("kind", ["jsonl", pytest.param("csv", marks=pytest.mark.slow)])
def test_other_formats_in_and_out(models, tmp_path, kind):
    (tmp_path / "in").mkdir()
    texts = builders.texts(12)
    if kind == "jsonl":
        lines = "".join(json.dumps({"text": text, "n": 1, "unused": [1]}) + "\n" for text in texts)
        (tmp_path / "in" / "a.jsonl").write_text(lines)
    else:
        pyarrow.csv.write_csv(pa.table({"text": texts, "n": [1] * 12}), tmp_path / "in" / "a.csv")
    output = {"path": str(tmp_path / "out"), "keep": ["n"], "format": "jsonl"}
    assert run(parse_config(text_job(models, tmp_path, output=output)))["rows_ok"] == 12
    rows = [json.loads(line) for file in (tmp_path / "out").rglob("*.jsonl") for line in file.read_text().splitlines()]
    pipe = pipeline("text-classification", model=models.text_classifier)
    got = {row["id"].rsplit(":", 1)[1]: row["prediction"] for row in rows}
    assert all(differences(got[str(index)], pipe(text)) == [] for index, text in enumerate(texts))


@pytest.mark.parametrize("layout", ["fused", pytest.param("staged", marks=pytest.mark.slow)])
def test_call_arguments_may_come_from_columns(models, tmp_path, layout):
    texts, labels = builders.texts(6), [["water", "time"], ["people"], ["day", "two", "see"]] * 2
    pq.write_table(pa.table({"body": texts, "labels": labels}), tmp_path / "in.parquet")
    raw = {
        "task": "zero-shot-classification",
        "model": models.entailment,
        "input": {"path": str(tmp_path / "in.parquet"), "columns": {"text": "body", "candidate_labels": "labels"}},
        "output": {"path": str(tmp_path / "out")},
        "engine": {"layout": layout},
    }
    run(parse_config(raw))
    rows = {row["id"].rsplit(":", 1)[1]: row["prediction"] for row in rows_of(tmp_path / "out")}
    pipe = pipeline("zero-shot-classification", model=models.entailment)
    for index, (text, candidates) in enumerate(zip(texts, labels, strict=True)):
        assert differences(rows[str(index)], pipe(text, candidates)) == []


@pytest.mark.parametrize("layout", ["fused", pytest.param("staged", marks=pytest.mark.slow)])
def test_speech_with_damaged_recordings(models, tmp_path, layout):
    """Long and short recordings, subtitles, two bad cells: failed rows, the rest done."""
    sounds = {f"r{seed}": builders.sound(seconds, seed) for seed, seconds in enumerate((3, 95, 1.2, 40, 6))}
    flac = sound_bytes(sounds["r0"])
    cells = {name: {"bytes": sound_bytes(samples), "path": f"{name}.flac"} for name, samples in sounds.items()}
    cells |= {
        "noise": {"bytes": b"RIFF" + bytes(50), "path": None},
        "cut": {"bytes": flac[: len(flac) // 3], "path": None},
    }
    cells["none"] = None
    rows = pa.table({"name": list(cells), "sound": list(cells.values())})
    pq.write_table(rows, tmp_path / "in.parquet")
    raw = {
        "model": models.ctc,
        "input": {"path": str(tmp_path / "in.parquet"), "id": "name", "columns": {"audio": "sound"}},
        "output": {"path": str(tmp_path / "out"), "subtitles": ["srt", "vtt"]},
        "parameters": {"chunk_length_s": 5, "return_timestamps": "word"},
        "engine": {"layout": layout, "copies": 2},
        "errors": {"max_failed_fraction": 0.5},
    }
    summary = run(parse_config(raw))
    assert (summary["rows_ok"], summary["rows_failed"]) == (5, 3)
    assert summary["audio_seconds"] == pytest.approx(145.2, abs=2)
    pipe = pipeline("automatic-speech-recognition", model=models.ctc)
    for row in rows_of(tmp_path / "out"):
        exact = sf.read(pa.BufferReader(cells[row["id"]]["bytes"]), dtype="float32")[0]
        assert differences(row["prediction"], pipe(exact, chunk_length_s=5, return_timestamps="word")) == []
        assert (tmp_path / "out/subtitles" / f"{row['id']}.srt").read_text().startswith("1\n00:00:00,")
        assert (tmp_path / "out/subtitles" / f"{row['id']}.vtt").read_text().startswith("WEBVTT\n\n1\n00:00:00.")
    failed = {row["id"]: row["error"] for row in rows_of(tmp_path / "out", "failed")}
    assert failed.keys() == {"noise", "cut", "none"}
    assert "libsndfile" in failed["noise"]["message"]
    assert "damaged" in failed["cut"]["message"]
    assert failed["none"] == {"stage": "read", "type": "ValueError", "message": "the row has no audio", "attempts": 1}


def test_too_many_failed_rows_stop_the_job(models, tmp_path):
    pq.write_table(pa.table({"text": ["water", None, None, "time"]}), tmp_path / "in.parquet")
    raw = text_job(models, tmp_path, input={"path": str(tmp_path / "in.parquet")}, output={"path": str(tmp_path / "out")})
    for _ in range(2):  # the same command again has nothing to do, and does not forget
        stop_again(raw)


def stop_again(raw):
    with pytest.raises(JobError, match=r"[12] of 4 rows failed, more than errors\.max_failed_fraction = 0\.05 allows"):
        run(parse_config(raw))
