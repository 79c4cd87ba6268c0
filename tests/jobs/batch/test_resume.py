"""The second run: what it opens, what it refuses, what it does again."""

import json
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import ray
import soundfile as sf
from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator
from support import builders
from support.comparing import differences
from support.drilling import text_job
from support.jobs import rows_of, write_texts
from support.jobs import text_job as raw_text_job

from dray.jobs.batch.datasink import Sink, WriteTotals
from dray.jobs.batch.datasource import tables
from dray.jobs.batch.job import run
from dray.jobs.cli import main
from dray.jobs.verification.verify import verify
from dray.pipelines.config import parse_config
from dray.pipelines.errors import OutputError

pytestmark = pytest.mark.usefixtures("ray_session")


def test_files_whose_rows_are_finished_are_not_opened_again(s3, trouble, folder, cluster):
    job = text_job(folder, trouble, cluster.address, builders.texts(80, median=8), s3.options)
    assert run(parse_config(job.raw))["rows_ok"] == 80
    new, bucket = pa.table({"text": ["water", "time"]}), job.raw["input"]["path"].removeprefix("s3://")
    with job.output.fs.open(f"{bucket}/new.parquet", "wb") as file:
        pq.write_table(new, file)
    s3.forget()
    summary = run(parse_config(job.raw))
    assert (summary["rows_ok"], summary["rows_skipped"]) == (2, 80)
    assert s3.requests("GET", f"{bucket}/new.parquet") > 0
    for shard in range(8):
        assert s3.requests("GET", f"{bucket}/{shard:02}.parquet") == 0
        assert s3.requests("HEAD", f"{bucket}/{shard:02}.parquet") == 0
    s3.forget()
    assert run(parse_config(job.raw))["rows_skipped"] == 82
    assert not any(s3.requests("GET", f"{bucket}/{name}.parquet") for name in ("new", "00", "07"))


def test_results_are_written_as_they_come_after_a_driver_was_killed(slow_model, folder, cluster):
    """Ray counts for three minutes what a killed driver had asked for."""
    dead = get_or_create_autoscaling_coordinator()
    ray.get(dead.request_resources.remote("killed", [{"CPU": 1}] * 16, 180, request_remaining=["CPU"]))
    job = text_job(folder, slow_model, cluster.address, builders.texts(600, median=8), engine={"batch": 4})
    try:
        assert run(parse_config(job.raw))["rows_ok"] == 600
    finally:
        ray.get(dead.cancel_request.remote("killed"))
    written = [job.output.fs.info(path)["mtime"] for path in job.output.fs.find(f"{job.output.path}/_dray/checkpoint")]
    model_s = 600 / 4 * 0.05
    assert max(written) - min(written) > model_s / 3


def test_a_changed_file_is_refused_or_done_again(models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(60), 3)
    config = parse_config(raw_text_job(models, tmp_path))
    run(config)
    before = {row["id"]: row["prediction"] for row in rows_of(tmp_path / "out")}
    changed = tmp_path / "in" / "1.parquet"
    pq.write_table(pa.table({"text": builders.texts(30, seed=9), "n": [1] * 30}), changed)
    message = rf"input.path: {changed} changed after 20 of its rows were finished; set input.changed: redo .* --fresh"
    with pytest.raises(OutputError, match=message):
        run(config)
    assert len(rows_of(tmp_path / "out")) == 60
    raw = raw_text_job(models, tmp_path)
    summary = run(parse_config({**raw, "input": {**raw["input"], "changed": "redo"}}))
    assert summary["rows_in"] == summary["rows_ok"] + summary["rows_skipped"] == 70
    after = {row["id"]: row["prediction"] for row in rows_of(tmp_path / "out")}
    assert len(rows_of(tmp_path / "out")) == len(after) == 70
    assert not any(differences(after[name], before[name]) for name in before if "1.parquet" not in name)
    assert any(after[name] != before[name] for name in before if "1.parquet" in name)
    run(config)  # as it is now, it has not changed


def test_another_version_of_transformers_goes_on_and_each_file_says_which_made_it(models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(8), 2)
    config = parse_config(raw_text_job(models, tmp_path))
    run(config)
    recorded = tmp_path / "out/_dray/fingerprint.json"
    earlier = {**json.loads(recorded.read_text()), "version of transformers": "4.0"}  # as dray 0.1 wrote it
    recorded.write_text(json.dumps(earlier))
    files = sorted((tmp_path / "out/data/status=ok").iterdir())
    table = pq.ParquetFile(files[0]).read()
    made = json.dumps({"transformers": "5.0.0"})
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"dray.versions": made}), files[0])
    pq.write_table(pa.table({"text": ["one more"], "n": [8]}), tmp_path / "in/new.parquet")
    summary = run(config)
    assert summary.rows_ok == 1
    assert summary.versions["transformers"] == version("transformers")
    found = verify(config, sample=2)
    assert found.problems == []
    (line,) = [text for name, text in found.rows if name == "versions"]
    others = len(list((tmp_path / "out/data/status=ok").iterdir())) - 1
    here = version("transformers")
    files_here = f"{others} file{'s' if others > 1 else ''}"
    assert line == f"transformers 5.0.0 (1 file), {here} ({files_here}); compared with {here}"


def test_damaged_files_are_reported_and_the_rest_is_done(models, tmp_path):
    """One cut, one of no bytes, one that is something else, one whose pages are damaged; then they are mended."""
    write_texts(tmp_path / "in", builders.texts(100), 5)
    files = [tmp_path / "in" / f"{shard}.parquet" for shard in range(5)]
    whole = [file.read_bytes() for file in files]
    files[0].write_bytes(whole[0][: len(whole[0]) // 2])
    files[1].write_bytes(b"")
    files[2].write_bytes(b"PK\x03\x04 not Parquet at all")
    files[3].write_bytes(whole[3][:4] + bytes(200) + whole[3][204:])
    raw = raw_text_job(models, tmp_path, errors={"max_failed_fraction": 1})
    summary = run(parse_config(raw))
    assert (summary["rows_in"], summary["rows_ok"], summary["rows_failed"]) == (43, 20, 23)
    failed = rows_of(tmp_path / "out", "failed")
    by_file = {str(file): [row for row in failed if row["source"] == str(file)] for file in files}
    for file in files[:3]:
        (row,) = by_file[str(file)]
        assert (row["id"], row["source_row"], row["error"]["stage"]) == (str(file), None, "read")
        assert f"{file} is not a readable parquet file: " in row["error"]["message"]
    assert sorted(row["source_row"] for row in by_file[str(files[3])]) == list(range(20))
    assert {row["source"] for row in rows_of(tmp_path / "out")} == {str(files[4])}
    for file, content in zip(files[:4], whole, strict=False):
        file.write_bytes(content)
    assert run(parse_config(raw))["rows_in"] == 100  # nothing good came of any of them, so nothing is refused
    assert len({row["id"] for row in rows_of(tmp_path / "out")}) == len(rows_of(tmp_path / "out")) == 100
    assert not rows_of_failed(tmp_path)


@pytest.mark.slow  # failed rows are retried above, damaged files are mended below
def test_mended_files_are_retried(models, tmp_path):
    write_texts(tmp_path / "in", builders.texts(30), 3)
    file = tmp_path / "in" / "1.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:100])
    config = parse_config(raw_text_job(models, tmp_path))
    assert (run(config)["rows_ok"], len(rows_of_failed(tmp_path))) == (20, 1)
    file.write_bytes(whole)
    assert run(config, again=True)["rows_ok"] == 10
    assert len({row["id"] for row in rows_of(tmp_path / "out")}) == 30
    assert not rows_of_failed(tmp_path)


def rows_of_failed(tmp_path) -> list[dict]:
    folder = tmp_path / "out/data/status=failed"
    return pads.dataset(folder).to_table().to_pylist() if folder.exists() and list(folder.iterdir()) else []


def test_failed_rows_are_retried(models, tmp_path, capsys):
    """Recordings that are not there yet; one never comes."""
    names = [str(tmp_path / f"{number}.wav") for number in range(6)]
    for name in names[:3]:
        sf.write(name, builders.sound(1), builders.RATE)
    pq.write_table(pa.table({"audio": names}), tmp_path / "in.parquet")
    raw = {
        "task": "automatic-speech-recognition",
        "model": models.ctc,
        "input": {"path": str(tmp_path / "in.parquet"), "id": "audio"},
        "output": {"path": str(tmp_path / "out"), "subtitles": ["vtt"]},
        "parameters": {"chunk_length_s": 1, "return_timestamps": "word"},
        "errors": {"max_failed_fraction": 0.5},
    }
    config = tmp_path / "job.yaml"
    config.write_text(parse_config(raw).model_dump_json(exclude_defaults=True))
    assert main(["run", str(config)]) == 0
    for name in names[3:5]:
        sf.write(name, builders.sound(1), builders.RATE)
    assert main(["run", str(config)]) == 0
    assert "6: 0 ok, 0 failed, 6 finished earlier" in capsys.readouterr().out
    assert main(["retry", str(config)]) == 0
    assert "6: 2 ok, 1 failed, 3 finished earlier" in capsys.readouterr().out
    assert {row["id"] for row in rows_of(tmp_path / "out")} == set(names[:5])
    (row,) = rows_of(tmp_path / "out", "failed")
    assert (row["id"], row["source"], row["source_row"]) == (names[5], str(tmp_path / "in.parquet"), 5)
    assert row["error"]["attempts"] == 2
    assert row["error"]["type"] == "FileNotFoundError"
    sf.write(names[5], builders.sound(1), builders.RATE)
    assert main(["retry", str(config)]) == 0
    assert main(["retry", str(config)]) == 0  # nothing is left to do
    assert sorted(row["id"] for row in rows_of(tmp_path / "out")) == names
    assert not rows_of_failed(tmp_path)
    assert len(list((tmp_path / "out/subtitles").iterdir())) == 6


def test_a_write_task_that_is_repeated_after_its_commit_leaves_what_is_there(models, tmp_path, monkeypatch):
    """Its rows may be fewer the second time, where Gather has died meanwhile with what it knew."""
    import ray

    from dray.jobs.batch.preflight import check
    from dray.jobs.outputs.commits import CHECKPOINT

    write_texts(tmp_path / "in", builders.texts(6), 1)
    job = check(parse_config(raw_text_job(models, tmp_path)))
    ledger = type("Ledger", (), {"written": type("WriteTotals", (), {"remote": lambda *arguments: None})})
    sink = Sink(job.output, job.config.output, ledger, job.lease.run, ray.put({}))
    name = "a" * 32 + "_000000"
    context = type("Context", (), {"kwargs": {"write_uuid": "a" * 32}, "task_idx": 0})
    (table,) = tables(job.data.filesystem, job.left, job.data.columns, job.finished)
    table = table.append_column("prediction", pa.array(np.zeros(6))).append_column("meter", pa.array([{}] * 6, pa.struct([])))
    try:
        assert (sink.write([table], context).ok, len(rows_of(tmp_path / "out"))) == (6, 6)
        job.output.write(f"{CHECKPOINT}/{name}.parquet", b"committed")
        written = sink.write([table.slice(0, 2)], context)
        assert isinstance(written, WriteTotals)
        assert (written.ok, len(rows_of(tmp_path / "out"))) == (6, 6)
        job.lease.release()
        with pytest.raises(Exception, match="has ended, or has lost"):
            sink.write([table], context)
    finally:
        job.lease.release()
