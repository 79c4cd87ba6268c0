"""Long recordings: bounded memory, spread over the pool, and the same transcript as in one process."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile as sf
import torch
from support.builders import RATE, sound
from support.jobs import rows_of
from support.loading import load_phases
from support.places import ROOT, Cluster

from dray.jobs.batch.job import run
from dray.pipelines.config import JobConfig, parse_config
from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.phases.item import Item

HOURS = 3
MIB = 1 << 20


def recording(folder: Path, hours: float) -> Path:
    """Tiled sound at 22.05 kHz, so that it has to be resampled too."""
    path = folder / "day.flac"
    minute = sound(61.7)
    with sf.SoundFile(path, "w", 22_050, 1, format="FLAC", compression_level=0.0) as file:
        for _ in range(int(hours * 3600 * 22_050 / len(minute)) + 1):
            file.write(minute)
    return path


def job(models, folder: Path, recording: Path) -> JobConfig:
    pq.write_table(pa.table({"audio": [str(recording)]}), folder / "in.parquet")
    raw = {
        "task": "automatic-speech-recognition",
        "model": models.ctc,
        "input": {"path": str(folder / "in.parquet")},
        "output": {"path": str(folder / "out")},
        "parameters": {"chunk_length_s": 20, "stride_length_s": 2},
        # Alone in its batch, and with as many threads, every chunk is computed the same way to the last bit; random weights
        # come so close to ties that the bits would tell.
        "engine": {"layout": "staged", "copies": 2, "batch": 1},
    }
    return parse_config(raw)


MEMORY = """
import sys, pyarrow as pa
from dray.pipelines.memory import peak_bytes
from dray.jobs.batch.stages import Preprocess
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT, ERROR_TYPE, ERROR, ID, KEY, POSITION, READ_S, SOURCE
from dray.pipelines.config import load_config
from dray.pipelines.models.resolved import resolve_model
operator = Preprocess(WorkerSpec(resolve_model(load_config(sys.argv[1])), pa.null(), 1, False))
row = {KEY: pa.array([1], pa.uint64()), ID: ["a"], SOURCE: ["b"], POSITION: [0], READ_S: [0.0], ERROR: pa.nulls(1, ERROR_TYPE)}
row[ARGUMENT + "audio"] = [sys.argv[2]]
started = peak_bytes()
segments = sum(table.num_rows for table in operator(pa.table(row)))
print(segments, peak_bytes() - started)
"""


def test_preprocessing_holds_no_more_than_a_few_segments(models, tmp_path):
    config, long = tmp_path / "job.yaml", recording(tmp_path, HOURS)
    config.write_text(job(models, tmp_path, long).model_dump_json(exclude_defaults=True))
    command = [sys.executable, "-c", MEMORY, str(config), str(long)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    segments, grown = map(int, done.stdout.split())
    assert segments == pytest.approx(HOURS * 3600 / 16 / 16, abs=2)  # a step is 16 s, a segment 16 chunks
    assert grown < 500 * MIB


@pytest.mark.parametrize("hours", [0.6, pytest.param(HOURS, marks=pytest.mark.slow)])
def test_the_recording_is_spread_and_stitched(cluster: Cluster, ray_session, models, tmp_path, hours):
    from ray.util.state import list_tasks

    long = recording(tmp_path, hours)
    config = job(models, tmp_path, long)
    summary = run(config)
    assert summary["rows_ok"] == 1
    assert summary["audio_seconds"] == pytest.approx(hours * 3600, rel=0.05)
    (row,) = rows_of(tmp_path / "out")
    before = torch.get_num_threads()
    torch.set_num_threads(summary["plan"]["threads"])
    phases = load_phases(config, weights=True)
    (alone,) = predict(phases, [Item({"audio": str(long)})], phases.limits(1), Watchdog(600))
    torch.set_num_threads(before)
    assert alone.error is None
    assert len(alone.prediction["text"]) > 300 * hours
    assert row["prediction"]["text"] == alone.prediction["text"]
    # Every segment was one row of a task of the Forward pool: both of its actors must have had some.
    tasks = list_tasks(address=cluster.dashboard, limit=10_000, raise_on_missing_output=False)
    actors = {task.actor_id for task in tasks if "Forward" in (task.name or "") and task.type == "ACTOR_TASK"}
    assert len(actors) >= 2, sorted({task.name for task in tasks})


def test_tiled_speech_has_the_words_of_its_tile(bundled, tmp_path):
    """The bundled model on a recording made of one utterance many times: the stitcher neither drops nor doubles words."""
    table = pq.read_table(ROOT / "demo" / "speech", columns=["id", "audio", "text"]).to_pylist()
    row = next(row for row in table if row["id"] == "short-16")
    samples, rate = sf.read(pa.BufferReader(row["audio"]["bytes"]), dtype="float32")
    assert rate == RATE
    tiled = np.concatenate([samples, np.zeros(RATE // 3, np.float32)] * 40)
    raw = {"model": bundled, "input": {"path": "-"}, "output": {"path": "-"}}
    raw["parameters"] = {"chunk_length_s": 10, "stride_length_s": 2}
    phases = load_phases(parse_config(raw), weights=True)
    item = Item({"audio": {"array": tiled, "sampling_rate": RATE}})
    (outcome,) = predict(phases, [item], phases.limits("auto"), Watchdog(600))
    words = outcome.prediction["text"].split()
    assert abs(len(words) - 40 * len(row["text"].split())) <= 3
