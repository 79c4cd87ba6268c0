"""Models in object stores: against a real S3 endpoint over HTTP on loopback."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from support import builders
from support.loading import for_workers as pinned
from support.loading import identity_of, load_phases, task_of
from support.places import ROOT

from dray.pipelines.config import parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.errors import ConfigError, ModelError
from dray.pipelines.models import store
from dray.pipelines.models.store import fetch, find_model, needed
from dray.pipelines.phases.item import Item

URL = "s3://models/team/classifier"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def options(endpoint) -> dict:
    return {"endpoint_url": endpoint, "key": "testing", "secret": "testing"}


@pytest.fixture
def bucket(options, models, tmp_path, monkeypatch) -> s3fs.S3FileSystem:
    """A bucket that holds a model, with much beside it, and a cache of its own."""
    monkeypatch.setenv("DRAY_CACHE", str(tmp_path / "cache"))
    fs = s3fs.S3FileSystem(**options, skip_instance_cache=True, use_listings_cache=False)
    if fs.exists("models"):
        fs.rm("models", recursive=True)
    fs.mkdir("models")
    fs.put(models.text_classifier + "/", "models/team/classifier/", recursive=True)
    for name in ("pytorch_model.bin", "tf_model.h5", "onnx/model.onnx", "checkpoint-5/optimizer.pt", "parts/extra/words.txt"):
        fs.pipe(f"models/team/classifier/{name}", name.encode())
    return fs


def config(options, url=URL, **keys):
    return parse_config(
        {"model": url, "input": {"path": "in.parquet", "storage_options": options}, "output": {"path": "out"}, **keys}
    )


def folders(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache/models").iterdir() if path.is_dir())


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def count_downloads(monkeypatch) -> list[str]:
    downloads, original = [], store._download
    monkeypatch.setattr(store, "_download", lambda *given: (downloads.append(given[2].name), original(*given)))
    return downloads


def predictions(phases) -> list:
    items = [Item({"text": text}) for text in builders.texts(5)]
    return [outcome.prediction for outcome in predict(phases, items, phases.limits(4), Watchdog(60))]


def test_a_model_in_a_bucket_runs_as_the_local_one_does(bucket, options, models, tmp_path):
    there = config(options)
    assert task_of(there).name == "text-classification"
    here = config({}, models.text_classifier)
    assert predictions(load_phases(there, weights=True)) == predictions(load_phases(here, weights=True))
    (folder,) = (tmp_path / "cache/models").glob("?" * 16)
    assert files(folder) == sorted([*os.listdir(models.text_classifier), "parts/extra/words.txt"])
    assert folder.name == find_model(URL, options).version


def test_without_weights_none_are_fetched(bucket, options, models, tmp_path):
    phases = load_phases(config(options), weights=False)
    assert phases.pipe.model.device.type == "meta"
    assert folders(tmp_path) == [f"{identity_of(config(options))}-without-weights"]
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_model_is_fetched_once(bucket, options, tmp_path, monkeypatch):
    downloads = count_downloads(monkeypatch)
    first = fetch(find_model(URL, options), weights=True)
    assert fetch(find_model(URL, options), weights=True) == first
    assert fetch(find_model(URL, options), weights=False) == first
    assert downloads == [first.name]


def test_processes_that_want_it_at_the_same_time_wait(bucket, options, tmp_path, monkeypatch):
    downloads = count_downloads(monkeypatch)
    model = find_model(URL, options)
    threads = [threading.Thread(target=fetch, args=(model, True)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(downloads) == 1


def test_another_process_finds_it_without_the_objects(bucket, options):
    folder = fetch(find_model(URL, options), weights=True)
    code = (
        "import json, sys; from dray.pipelines.models import store; store._download = None; "
        "url, options = json.loads(sys.argv[1]); print(store.fetch(store.find_model(url, options), True))"
    )
    command = [sys.executable, "-c", code, json.dumps([URL, options])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == str(folder)


def test_a_killed_download_leaves_nothing_half(bucket, options, tmp_path, monkeypatch):
    model = find_model(URL, options)
    get = model.fs.get

    def killed(remote, local):
        get(remote[:1], local[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr(model.fs, "get", killed)
    with pytest.raises(KeyboardInterrupt):
        fetch(model, weights=True)
    monkeypatch.setattr(model.fs, "get", get)
    assert folders(tmp_path) == [f"{model.version}.partial"]
    folder = fetch(model, weights=True)
    assert folders(tmp_path) == [folder.name]
    assert len(files(folder)) == len(model.files)


def test_a_changed_model_gets_another_folder_and_is_not_taken_for_the_first(bucket, options, tmp_path):
    job = config(options)
    for_workers = pinned(job)
    assert (for_workers.model, for_workers.task) == (URL, "text-classification")
    load_phases(for_workers, weights=True)
    bucket.pipe("models/team/classifier/parts/extra/words.txt", b"other words")
    assert identity_of(job) != for_workers.revision
    load_phases(job, weights=True)
    assert len(list((tmp_path / "cache/models").glob("?" * 16))) == 2
    with pytest.raises(ModelError, match=rf"^model: {URL} is version .*, not {for_workers.revision}; either its files were"):
        load_phases(for_workers, weights=True)


def test_a_size_that_does_not_fit_is_a_change_during_the_download(bucket, options, tmp_path):
    model = find_model(URL, options)
    bucket.pipe("models/team/classifier/parts/extra/words.txt", b"other words, and more of them")
    with pytest.raises(ModelError, match=r"words.txt came with 29 bytes, not 21; it was changed meanwhile"):
        fetch(model, weights=True)
    assert not (tmp_path / "cache/models" / model.version).exists()


@pytest.mark.parametrize(
    ("paths", "given"),
    [("in.parquet", True), ("s3://calls/*.parquet", True), ("gs://calls/*", False), (["gs://a/*", "s3://b/*"], True)],
)
def test_storage_options_are_for_the_kind_of_store_they_were_given_for(monkeypatch, paths, given):
    def stop(url, options, pickled):
        assert options == ({"anon": True} if given else {})
        raise ModelError("far enough")

    monkeypatch.setattr(store, "find_model", stop)
    raw = {"model": URL, "output": {"path": "out"}, "input": {"path": paths, "storage_options": {"anon": True}}}
    with pytest.raises(ModelError, match="far enough"):
        task_of(parse_config(raw))


def test_pickled_weights_are_refused_before_they_are_fetched(bucket, options, models, tmp_path):
    bucket.rm("models/team/classifier/model.safetensors")
    with pytest.raises(ModelError, match=r"pickled \(pytorch_model.bin\).*model_kwargs.use_safetensors: false"):
        load_phases(config(options), weights=False)
    assert not (tmp_path / "cache").exists()
    trusting = config(options, model_kwargs={"use_safetensors": False})
    assert load_phases(trusting, weights=False).task.name == "text-classification"


def test_a_url_of_a_local_folder_is_that_folder(models, tmp_path, monkeypatch):
    monkeypatch.setenv("DRAY_CACHE", str(tmp_path / "cache"))
    assert task_of(config({}, f"file://{models.text_classifier}")).name == "text-classification"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://models/nothing", "^model: there is nothing at s3://models/nothing$"),
        ("s3://nosuchbucket/model", "^model: (there is nothing at|cannot list) s3://nosuchbucket/model"),
        ("s3://models/team", "^model: s3://models/team holds no config.json, so it is not a model saved by transformers$"),
        ("s3://models/team/classifier/parts", "holds no config.json"),
        ("https://example.com/model", "^model: https://example.com/model is no folder; name a hub id, a local folder or"),
        ("nosuchprotocol://bucket/model", "^model: cannot list nosuchprotocol://bucket/model: Protocol not known"),
    ],
)
def test_mistakes(bucket, options, url, message):
    with pytest.raises(ModelError, match=message):
        load_phases(config(options, url), weights=False)
    with pytest.raises((ModelError, ConfigError), match=message):
        load_phases(config(options, url, task="text-classification"), weights=True)


def test_a_cache_that_cannot_be_written(bucket, options, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ModelError, match=rf"^model: cannot fetch {URL} to "):
        load_phases(config(options), weights=False)


def test_what_transformers_needs():
    config, shard = "config.json", "model-00001-of-00002.safetensors"
    others = ["tf_model.h5", "flax_model.msgpack", "onnx/model.onnx", "onnx/model.onnx_data", "rng_state_0.pth", ".git/HEAD"]
    kept = [config, shard, "language_model/5gram.bin", "speaker/a.npy", "tokenizer.model"]
    assert needed([*kept, *others, "pytorch_model-00001-of-00002.bin", "pytorch_model.bin.index.json"]) == kept
    assert needed([config, "pytorch_model.bin"]) == [config, "pytorch_model.bin"]
    assert needed([config, shard, "pytorch_model.bin"], pickled=True) == [config, shard, "pytorch_model.bin"]
    assert needed([config, "../x.json", "a//b", ""]) == [config]
