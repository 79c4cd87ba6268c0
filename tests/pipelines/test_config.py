import pytest
from pydantic import ValidationError
from support.places import ROOT

from dray.pipelines.config import load_config, parse_config
from dray.pipelines.config_reference import describe
from dray.pipelines.errors import ConfigError
from dray.pipelines.tasks.names import find_task

FULL = """
task: automatic-speech-recognition
model: openai/whisper-large-v3-turbo
revision: null
input:
  path: s3://calls/2026/*.parquet
  columns: {audio: recording}
  id: call_id
  storage_options: {endpoint_url: http://127.0.0.1:9000}
output:
  path: s3://transcripts/2026
  format: parquet
  keep: [speaker]
  subtitles: [srt, vtt]
parameters: {return_timestamps: true, chunk_length_s: 30}
model_kwargs: {}
engine: {device: auto, dtype: auto, device_map: null, batch: auto, actors: auto, layout: auto, compile: false}
errors: {max_failed_fraction: 0.05, timeout_s: 600}
"""


@pytest.fixture
def full(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(FULL)
    return path


def test_the_documented_config_is_valid_and_frozen(full):
    config = load_config(full)
    assert config.output.keep == ("speaker",)
    assert config.input.paths == ("s3://calls/2026/*.parquet",)
    assert config.parameters == {"return_timestamps": True, "chunk_length_s": 30}
    with pytest.raises(ValidationError):
        config.model = "other"


def test_overrides_are_yaml(full):
    config = load_config(full, ["engine.batch=16", "output.keep=[a, b]", "task=null", "parameters.stride_length_s=[2, 1]"])
    assert config.engine.batch == 16
    assert config.output.keep == ("a", "b")
    assert config.task is None
    assert config.parameters["stride_length_s"] == [2, 1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("engine.bach=1", "unknown key engine.bach, did you mean batch?"),
        ("nonsense=1", "unknown key nonsense; known are task, model"),
        ("engine.batch=-1", "engine.batch: "),
        ("model.name=x", "model is a value, not a section"),
        ("=3", "write key=value"),
    ],
)
def test_wrong_overrides(full, override, message):
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        load_config(full, [override])


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_configs_that_come_along_are_valid(path):
    config = load_config(path)
    assert find_task(config.task).inputs


def test_every_key_is_described():
    rows = describe()
    assert len(rows) > 20
    assert all(description for _, _, description in rows)
    assert ("output.path", "required", "folder; local or any fsspec URL") in rows


def test_a_key_of_an_earlier_version_works_and_says_its_new_name(capsys):
    raw = {"model": "m", "input": {"path": "in"}, "output": {"path": "out"}}
    assert parse_config({**raw, "engine": {"actors": 3}}).engine.copies == 3
    assert capsys.readouterr().err == "dray: engine.actors is now called engine.copies; the earlier name still works\n"
    with pytest.raises(ConfigError, match=r"engine\.actors is the earlier name of engine\.copies; leave it out"):
        parse_config({**raw, "engine": {"actors": 3, "copies": 3}})
