"""From bucket to bucket, against a real S3 endpoint over HTTP on loopback."""

import json
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from moto.server import ThreadedMotoServer
from support import builders

from dray.jobs.batch.job import run
from dray.jobs.storage.folder import output_folder
from dray.pipelines.config import parse_config


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint) -> dict:
    """Storage options of an endpoint with an empty bucket `calls`."""
    import s3fs

    options = {"endpoint_url": endpoint, "key": "testing", "secret": "testing", "use_listings_cache": False}
    fs = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    if fs.exists("calls"):
        fs.rm("calls", recursive=True)
    fs.mkdir("calls")
    return options


def upload(options: dict, name: str, table: pa.Table) -> None:
    import s3fs

    with s3fs.S3FileSystem(**options).open(name, "wb") as file:
        pq.write_table(table, file, row_group_size=16)


def job(models, options: dict) -> dict:
    return {
        "task": "text-classification",
        "model": models.text_classifier,
        "input": {"path": "s3://calls/2026/*.parquet", "storage_options": options},
        "output": {"path": "s3://calls/out", "keep": ["n"]},
    }


@pytest.mark.slow  # with speech and subtitles it is done below
def test_bucket_to_bucket_and_again(ray_session, models, bucket):
    texts = builders.texts(60)
    for shard in range(3):
        part = texts[shard * 20 : shard * 20 + 20]
        upload(bucket, f"calls/2026/{shard}.parquet", pa.table({"text": part, "n": list(range(20))}))
    config = parse_config(job(models, bucket))
    assert run(config)["rows_ok"] == 60
    folder = output_folder(config)
    rows = pq.read_table((folder / "data").path, filesystem=folder.arrow()).to_pylist()
    assert sorted(row["id"] for row in rows) == sorted(f"s3://calls/2026/{s}.parquet:{i}" for s in range(3) for i in range(20))
    upload(bucket, "calls/2026/3.parquet", pa.table({"text": texts[:5], "n": list(range(5))}))
    again = run(config)
    assert (again["rows_ok"], again["rows_skipped"]) == (5, 60)
    assert json.loads(folder.read("_dray/summary.json"))["rows_in"] == 65
    assert b"<title>" in folder.read("_dray/report.html")
    assert b"testing" not in folder.read("_dray/config.json")


def test_speech_with_subtitles_in_a_bucket(ray_session, models, bucket):
    from support.jobs import sound_bytes

    cells = [{"bytes": sound_bytes(builders.sound(4, seed)), "path": None} for seed in range(3)]
    upload(bucket, "calls/2026/a.parquet", pa.table({"audio": cells, "name": ["a", "b", "c"]}))
    raw = job(models, bucket)
    raw |= {"task": None, "model": models.ctc, "parameters": {"chunk_length_s": 2, "return_timestamps": "word"}}
    raw["input"] |= {"id": "name"}
    raw["output"] = {"path": "s3://calls/speech", "subtitles": ["vtt"]}
    config = parse_config(raw)
    assert run(config)["rows_ok"] == 3
    assert output_folder(config).read("subtitles/b.vtt").startswith(b"WEBVTT")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("input.path", "s3://calls/nothing/*.parquet", "there is no file at s3://calls/nothing/*.parquet"),
        ("input.path", "s3://nosuchbucket/x.parquet", "input.path: "),
        ("output.path", "s3://nosuchbucket/out", "output.path: cannot write to s3://nosuchbucket/out"),
    ],
)
def test_mistakes_with_buckets(dray, models, bucket, tmp_path, key, value, message):
    upload(bucket, "calls/2026/a.parquet", pa.table({"text": ["water"], "n": [1]}))
    raw = job(models, bucket)
    section, name = key.split(".")
    raw[section][name] = value
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(raw))
    done = dray("run", str(tmp_path / "job.yaml"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
