"""What is written: one type per task whatever a shard holds, readable by datasets and DuckDB, media as files hold them."""

import base64
import copy
import io
import json
from pathlib import Path
from types import SimpleNamespace

import datasets
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile
from PIL import Image
from support import arrow, catalogue
from support.loading import load_phases, model_of

from dray.jobs.batch.datasink import Sink
from dray.jobs.batch.stages import Fused
from dray.jobs.batch.worker import WorkerSpec
from dray.jobs.columns import ARGUMENT
from dray.jobs.outputs.lease import Lease
from dray.jobs.outputs.rows_in_files import as_json
from dray.jobs.storage.folder import output_folder
from dray.pipelines.config import parse_config
from dray.pipelines.tasks.table import TASKS

ONE_EACH = {case.task: name for name, case in reversed(catalogue.CASES.items()) if not case.unavailable}
ONE_EACH.pop("mask-generation")  # needs torchvision; its masks are written as image-segmentation's


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Task -> folder with what a job would have written for its items, then for rows that all fail."""
    made: dict[str, Path] = {}

    def write(task, kind="parquet"):
        key = f"{task}-{kind}"
        if key not in made:
            made[key] = tmp_path_factory.mktemp(key)
            _write(catalogue.CASES[ONE_EACH[task]], made[key], kind)
        return made[key]

    return write


def _write(case, folder, kind):
    raw = {"task": case.task, "model": case.build(folder / "model"), "parameters": copy.deepcopy(case.parameters)}
    raw |= {"input": {"path": "-"}, "output": {"path": str(folder / "out"), "format": kind}}
    config = parse_config(raw)
    table = arrow.table_of(case.items())
    columns = {name.removeprefix(ARGUMENT): table[name].type for name in table.column_names}
    fused = Fused(
        WorkerSpec(model_of(config), load_phases(config, weights=False).schema(columns), threads=1, accelerator=False)
    )
    ledger = SimpleNamespace(written=SimpleNamespace(remote=lambda *counts: None))
    lease = Lease(output_folder(config))
    lease.take()
    sink = Sink(output_folder(config), config.output, ledger, lease.run)
    main = ARGUMENT + TASKS[case.task].inputs[0]
    empty = table.set_column(table.column_names.index(main), main, pa.nulls(table.num_rows, table[main].type))
    first, rest = table.slice(0, 2), table.slice(2)
    for index, rows in enumerate([first, rest, empty if not TASKS[case.task].optional else first]):
        sink.write([fused(rows)], SimpleNamespace(kwargs={"write_uuid": "x"}, task_idx=index))
    lease.release()


@pytest.mark.parametrize("task", ONE_EACH)
def test_readable_by_datasets_and_duckdb(written, task):
    folder = written(task) / "out/data"
    files = sorted(map(str, folder.glob("status=ok/*.parquet")))
    assert len({pq.read_schema(file).field("prediction").type for file in files}) == 1
    rows = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=str(folder / "cache"))
    assert len(rows) >= 5
    assert all(row["prediction"] is not None for row in rows)
    counted = duckdb.sql(f"select count(*), count(prediction) from '{folder}/status=ok/*.parquet'").fetchall()
    assert counted == [(len(rows), len(rows))]
    if not TASKS[task].optional:
        failed = duckdb.sql(f"select error.stage, error.message from '{folder}/status=failed/*.parquet'").fetchall()
        assert set(failed) == {("read", f"the row has no {TASKS[task].inputs[0]}")}


def test_embeddings_are_lists_of_fixed_size(written):
    for task, dimensions in (("feature-extraction", 3), ("image-feature-extraction", 3)):
        (file, *_) = (written(task) / "out/data/status=ok").glob("*.parquet")
        kind = pq.read_schema(file).field("prediction").type
        for _ in range(dimensions - 1):
            kind = kind.value_type
        assert pa.types.is_fixed_size_list(kind)
        assert kind.list_size == 32


def test_media_in_results_are_files(written):
    segments = pq.read_table(written("image-segmentation") / "out/data/status=ok")["prediction"].to_pylist()
    mask = Image.open(io.BytesIO(segments[0][0]["mask"]))
    assert (mask.format, mask.mode) == ("PNG", "L")
    depth = pq.read_table(written("depth-estimation") / "out/data/status=ok")["prediction"].to_pylist()[0]
    picture = Image.open(io.BytesIO(depth["depth"]))
    assert picture.size[::-1] == np.shape(depth["predicted_depth"])
    sound = pq.read_table(written("text-to-audio") / "out/data/status=ok")["prediction"].to_pylist()[0]
    samples, rate = soundfile.read(io.BytesIO(sound["audio"]))
    assert sound["audio"][:4] == b"fLaC"
    assert rate == sound["sampling_rate"]
    assert len(samples) > 100


def test_json_lines(written):
    for task in ("image-segmentation", "token-classification", "feature-extraction"):
        lines = [
            json.loads(line)
            for file in sorted((written(task, "jsonl") / "out/data/status=ok").glob("*.jsonl"))
            for line in file.read_text().splitlines()
        ]
        typed = pq.read_table(written(task) / "out/data/status=ok").sort_by("id").to_pylist()
        assert len(lines) == len(typed)
        by_id = {line["id"]: line["prediction"] for line in lines}
        for row in typed:
            if task == "image-segmentation":
                got = [base64.b64decode(segment["mask"]) for segment in by_id[row["id"]]]
                assert got == [segment["mask"] for segment in row["prediction"]]
            else:
                assert by_id[row["id"]] == row["prediction"]


def test_json_lines_hold_no_numbers_that_json_has_not():
    assert as_json({"a": [float("nan"), 1.5, float("inf")], "b": b"x"}) == {"a": [None, 1.5, None], "b": "eA=="}
