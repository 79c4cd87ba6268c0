"""Speech in chunks: what `pipeline(...)(recording, **parameters)` gives, for every layout and batch size."""

import functools
import warnings

import numpy as np
import pyarrow as pa
import pytest
from support import builders
from support.comparing import differences
from support.loading import load_phases, model_of
from transformers import pipeline

from dray.jobs.batch.gather import Gather
from dray.jobs.batch.stages import Forward, Fused, Postprocess, Preprocess
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT, ERROR, ERROR_TYPE, ID, KEY, POSITION, READ_S, SOURCE
from dray.pipelines.config import parse_config

warnings.simplefilter("ignore")

LENGTHS = (3.0, 0.4, 21.7, 8.0, 5.1, 12.3)  # seconds; at chunks of 5 s one of them has seven parts


def recordings(case: str) -> list[np.ndarray]:
    """Fewer for Whisper, which takes a second for each 30 s window."""
    lengths = LENGTHS[:4] if case.startswith("whisper") else LENGTHS
    return [builders.sound(seconds, seed) for seed, seconds in enumerate(lengths)]


CHUNKS = {"chunk_length_s": 5, "stride_length_s": 1}
WHISPER = {"chunk_length_s": 10, "generate_kwargs": {"max_new_tokens": 12}}
CASES = {
    "ctc": ("automatic-speech-recognition", "ctc", CHUNKS),
    "ctc-words": ("automatic-speech-recognition", "ctc", {**CHUNKS, "return_timestamps": "word"}),
    "ctc-chars": ("automatic-speech-recognition", "ctc", {"chunk_length_s": 4, "return_timestamps": "char"}),
    "ctc-uneven-stride": ("automatic-speech-recognition", "ctc", {"chunk_length_s": 5, "stride_length_s": [2, 0.5]}),
    "ctc-whole": ("automatic-speech-recognition", "ctc", {}),
    "ctc-group-norm": ("automatic-speech-recognition", "ctc__group", {**CHUNKS, "return_timestamps": "word"}),
    "ctc-group-norm-whole": ("automatic-speech-recognition", "ctc__group", {}),
    "whisper": ("automatic-speech-recognition", "whisper", WHISPER),
    "whisper-segments": ("automatic-speech-recognition", "whisper", {**WHISPER, "return_timestamps": True}),
    "whisper-words": ("automatic-speech-recognition", "whisper", {**WHISPER, "return_timestamps": "word"}),
}


@functools.cache
def reference(case: str, model: str) -> list[object]:
    task, _, parameters = CASES[case]
    pipe = pipeline(task, model=model)
    return [pipe(item.copy(), **parameters) for item in recordings(case)]


def table_of(case: str) -> pa.Table:
    cells = pa.array([{"array": item, "sampling_rate": builders.RATE} for item in recordings(case)])
    rows = len(cells)
    fixed = {KEY: pa.array(range(rows), pa.uint64()), ID: pa.array(range(rows)), SOURCE: pa.array(["x"] * rows)}
    unread = {POSITION: pa.array(range(rows)), READ_S: pa.array([0.0] * rows), ERROR: pa.nulls(rows, ERROR_TYPE)}
    return pa.table({**fixed, **unread, ARGUMENT + "audio": cells})


def fused(worker: WorkerSpec, table: pa.Table) -> pa.Table:
    return Fused(worker)(table)


def staged(worker: WorkerSpec, table: pa.Table) -> pa.Table:
    """The staged operators one after the other; segments reach Gather out of order, and twice."""
    segments = pa.concat_tables(Preprocess(worker)(table))
    outputs = Forward(worker)(segments)
    gather = Gather()
    backwards = outputs.take(list(reversed(range(outputs.num_rows))))
    halves = [backwards.slice(0, 3), backwards.slice(0, 5), backwards.slice(3)]
    gathered = pa.concat_tables([gather(half) for half in halves])
    unique = {row[KEY]: row for row in gathered.to_pylist()}
    return Postprocess(worker)(pa.Table.from_pylist(list(unique.values()), gathered.schema)).sort_by(KEY)


@pytest.mark.parametrize("batch", [1, 3, "auto"])
@pytest.mark.parametrize("layout", [fused, staged])
@pytest.mark.parametrize("case", CASES)
def test_operators_give_the_librarys_result(models, case, layout, batch, monkeypatch):
    monkeypatch.setattr("dray.jobs.batch.stages.SEGMENT_PARTS", 2)  # long items become several rows
    task, model, parameters = CASES[case]
    folder = getattr(models, model)
    raw = {"task": task, "model": folder, "parameters": parameters, "engine": {"batch": batch}}
    config = parse_config({**raw, "input": {"path": "-"}, "output": {"path": "-"}})
    table = table_of(case)
    schema = load_phases(config, weights=False).schema({})
    result = layout(WorkerSpec(model_of(config), schema, threads=1, accelerator=False), table)
    assert [error for error in result["error"].to_pylist() if error] == []
    expected = reference(case, folder)
    assert len(result) == len(expected)
    found = [d for got, want in zip(result["prediction"].to_pylist(), expected, strict=True) for d in differences(got, want)]
    assert not found
