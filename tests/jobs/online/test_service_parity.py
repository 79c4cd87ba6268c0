"""The same items, given to the batch job and sent to the service: the same answers."""

import io
import json

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest
import soundfile
from starlette.testclient import TestClient
from support import builders, tiny_vision
from support.comparing import differences

from dray.jobs.batch.job import run
from dray.jobs.online.app import make_app
from dray.pipelines.config import parse_config
from dray.pipelines.online.service import Service


def spoken(seconds: float, seed: int) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, builders.sound(seconds, seed), builders.RATE, format="FLAC")
    return buffer.getvalue()


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    tiny_vision.picture(80 + 40 * seed, 60 + 10 * seed, seed=seed).save(buffer, "PNG")
    return buffer.getvalue()


# task -> (model, argument, parameters, cells)
CASES = {
    "automatic-speech-recognition": (
        builders.ctc, "audio", {"chunk_length_s": 20, "return_timestamps": "word"},
        [spoken(seconds, seed) for seed, seconds in enumerate((1.5, 4.0, 600.0, 2.5))],
    ),
    "text-classification": (builders.text_classifier, "text", {"top_k": None}, builders.texts(12, sigma=1.0)),
    "zero-shot-classification": (
        builders.entailment, "text", {"candidate_labels": ["work", "people", "time"]}, builders.texts(6, seed=1),
    ),
    "image-classification": (tiny_vision.vit, "image", {"top_k": 2}, [picture(seed) for seed in range(5)]),
}  # fmt: skip


OFTEN = ("automatic-speech-recognition", "text-classification")  # the others are slow and meet the same code


@pytest.mark.parametrize("task", [pytest.param(task, marks=[] if task in OFTEN else [pytest.mark.slow]) for task in CASES])
def test_the_job_and_the_service_agree(ray_session, tmp_path, task):
    build, argument, parameters, cells = CASES[task]
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"number": range(len(cells)), "cell": cells}), tmp_path / "in/0.parquet")
    config = parse_config({
        "task": task, "model": build(tmp_path / "model"), "parameters": parameters, "engine": {"dtype": "float32"},
        "input": {"path": str(tmp_path / "in"), "columns": {argument: "cell"}},
        "output": {"path": str(tmp_path / "out"), "keep": ["number"]},
    })  # fmt: skip
    run(config)
    rows = pads.dataset(tmp_path / "out/data", format="parquet", partitioning="hive").to_table().to_pylist()
    done = {row["number"]: row["prediction"] for row in rows if row["status"] == "ok"}
    assert sorted(done) == list(range(len(cells)))
    client = TestClient(make_app(Service(config), config, "model"))
    # What the protocol changes in the form of an answer is known: see SHAPES in pipelines/protocols/huggingface.py.
    for number, cell in enumerate(cells):
        answer = client.post("/", content=cell) if isinstance(cell, bytes) else client.post("/", json={"inputs": cell})
        assert answer.status_code == 200, answer.text
        expected = json.loads(json.dumps(done[number]))
        got = answer.json()
        if task == "text-classification":
            (got,) = got
        if task == "zero-shot-classification":
            expected = [
                {"label": label, "score": score}
                for label, score in zip(expected["labels"], expected["scores"], strict=True)
            ]  # fmt: skip
        assert not differences(got, expected, 1e-4)
