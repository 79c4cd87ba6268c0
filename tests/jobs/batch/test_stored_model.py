"""A whole job with a model in a bucket: every worker fetches it on its own node."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import s3fs
from moto.server import ThreadedMotoServer
from support import builders

from dray.jobs.batch.job import run
from dray.pipelines.cache import cache_folder
from dray.pipelines.config import parse_config
from dray.pipelines.errors import OutputError
from dray.pipelines.models.store import find_model


@pytest.fixture
def options():
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {"endpoint_url": f"http://{host}:{port}", "key": "testing", "secret": "testing", "use_listings_cache": False}
    server.stop()


def test_the_model_is_inferred_fetched_and_recorded(ray_session, models, options, tmp_path):
    fs = s3fs.S3FileSystem(**options, skip_instance_cache=True)
    fs.mkdir("shelf")
    fs.put(models.text_classifier + "/", "shelf/classifier/", recursive=True)
    pq.write_table(pa.table({"text": builders.texts(20)}), tmp_path / "in.parquet")
    raw = {"model": "s3://shelf/classifier", "output": {"path": str(tmp_path / "out"), "storage_options": {}}}
    raw["input"] = {"path": str(tmp_path / "in.parquet"), "storage_options": options}
    assert run(parse_config(raw))["rows_ok"] == 20
    recorded = json.loads((tmp_path / "out/_dray/fingerprint.json").read_text())
    assert (recorded["task"], recorded["model"]) == ("text-classification", "s3://shelf/classifier")
    fetched = cache_folder()  # of the cluster's workers, which were started before this test
    assert (fetched / recorded["weights"] / "model.safetensors").is_file()
    fs.pipe("shelf/classifier/README.md", b"another version")
    with pytest.raises(OutputError, match=f"where weights was '{recorded['weights']}', not "):
        run(parse_config(raw))
    for name in (recorded["weights"], find_model(raw["model"], options).version):
        for left in fetched.glob(f"{name}*"):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
