"""Every mistake: exit 2, one sentence that says what and where, no traceback, before any worker starts."""

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from dray.jobs.cli import main


@pytest.fixture
def good(models, tmp_path) -> dict:
    pq.write_table(pa.table({"text": ["water", "time"], "n": [1, 2]}), tmp_path / "in.parquet")
    return {
        "task": "text-classification",
        "model": models.text_classifier,
        "input": {"path": str(tmp_path / "in.parquet")},
        "output": {"path": str(tmp_path / "out")},
    }


def set_key(raw: dict, key: str, value: object) -> dict:
    *parents, last = key.split(".")
    section = raw
    for parent in parents:
        section = section.setdefault(parent, {})
    section[last] = value
    return raw


CASES = [
    ("engine.bacth", 3, "unknown key engine.bacth, did you mean batch?"),
    ("modle", "x", "unknown key modle, did you mean model?"),
    ("engine.batch", "many", "engine.batch: "),
    ("engine.batch", 0, "engine.batch: "),
    ("engine.layout", "folded", "engine.layout: "),
    ("errors.max_failed_fraction", 2, "errors.max_failed_fraction: "),
    ("input", 3, "input: "),
    ("task", "text-clasification", "task: dray does not run text-clasification, did you mean text-classification?"),
    ("task", "summarization", "task: transformers has removed summarization; use text-generation with a chat model"),
    ("task", "translation_en_to_fr", "task: transformers has removed translation_en_to_fr"),
    ("task", "automatic-speech-recognition", "input.columns.audio: "),
    ("model", "/no/such/folder", "model: there is no folder /no/such/folder"),
    ("model", "{tmp}", "holds no config.json"),
    ("model", "{tmp}/empty-model", "holds no weights"),
    ("parameters", {"padding": "to the moon"}, "parameters: text-classification cannot take any of the first 2 rows"),
    ("task", "zero-shot-classification", "parameters: zero-shot-classification cannot take any of the first 2 rows"),
    ("output.path", "{tmp}", "holds the input"),
    ("input.path", "/no/such/*.parquet", "input.path: there is no file at /no/such/*.parquet"),
    ("input.path", "{tmp}/empty.parquet", "empty.parquet holds no rows"),
    ("input.path", "{tmp}/text.parquet", "text.parquet is not a readable parquet file"),
    ("input.path", "{tmp}/in.xyz", "input.format: cannot tell the format of"),
    ("input.path", "nosuchprotocol://bucket/x", "input.path: cannot list nosuchprotocol://bucket/x"),
    ("input.columns", {"text": "txet"}, "input.columns.text: "),
    ("input.id", "N", "input.id: "),
    ("output.keep", ["m"], "output.keep: "),
    ("output.path", "{tmp}/in.parquet/out", "output.path: cannot read {tmp}/in.parquet/out: Not a directory"),
    ("output.subtitles", ["srt"], "output.subtitles: "),
    ("parameters", {"function_to_apply": "softmin"}, "parameters: the text-classification pipeline does not take them"),
]


@pytest.mark.parametrize(("key", "value", "message"), CASES, ids=[f"{key}={value}" for key, value, _ in CASES])
def test_a_mistake_is_told_in_one_sentence(good, tmp_path, capsys, monkeypatch, key, value, message):
    (tmp_path / "empty-model").mkdir()
    shutil.copy(Path(good["model"]) / "config.json", tmp_path / "empty-model")
    (tmp_path / "text.parquet").write_text("not Parquet at all")
    (tmp_path / "in.xyz").write_text("x")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "empty.parquet")
    monkeypatch.setattr("ray.init", lambda *args, **kwargs: pytest.fail("Ray was started"))
    value = value.format(tmp=tmp_path) if isinstance(value, str) else value
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(set_key(good, key, value)))
    assert main(["run", str(config)]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    said = [line for line in said if line.startswith("dray: ")]
    assert len(said) == 1
    assert message.replace("{tmp}", str(tmp_path)) in said[0]
    assert len(said[0]) < 500
    assert not list(Path(tmp_path).glob("out/data/*/*"))


def test_there_is_no_report_before_a_run(good, tmp_path, capsys):
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(good))
    assert main(["report", str(config)]) == 2
    assert "holds no summary; run the job first" in capsys.readouterr().err


def test_the_manual_is_printed(capsys):
    assert main(["config"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.startswith("engine.layout ") and "staged with accelerators" in line and "(default: auto)" in line for line in lines
    )


def test_missing_keys_files_and_broken_yaml(tmp_path, capsys):
    config = tmp_path / "job.yaml"
    assert main(["run", str(config)]) == 2
    assert "cannot read the config" in capsys.readouterr().err
    config.write_text("model: [")
    assert main(["run", str(config)]) == 2
    assert "is not valid YAML" in capsys.readouterr().err
    config.write_text("")
    assert main(["run", str(config)]) == 2
    assert "holds no keys" in capsys.readouterr().err
    config.write_text("model: x\ninput: {path: y}")
    assert main(["run", str(config)]) == 2
    assert "dray: output is missing" in capsys.readouterr().err
    assert main(["run", str(config), "--set", "output"]) == 2
    assert "write key=value" in capsys.readouterr().err


def test_results_of_unknown_origin_are_not_mixed_with_ours(good, tmp_path, capsys):
    (tmp_path / "out/data").mkdir(parents=True)
    (tmp_path / "out/data/somebody.parquet").write_text("precious")
    config = tmp_path / "job.yaml"
    config.write_text(yaml.safe_dump(good))
    assert main(["run", str(config)]) == 2
    assert "files of unknown origin" in capsys.readouterr().err
    assert (tmp_path / "out/data/somebody.parquet").read_text() == "precious"
