"""`dray verify` on good and damaged results."""

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from support import builders

from dray.jobs.batch.job import run
from dray.jobs.cli import main
from dray.jobs.outputs.commits import PENDING, VOID, task_of
from dray.jobs.outputs.retry import BEGUN, release
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import parse_config
from dray.pipelines.engine.compare import compare

ROWS, FAILED = 60, 3


class Done:
    """A finished job, of whose results each test takes a copy."""

    def __init__(self, folder: Path, raw: dict) -> None:
        self.folder, self.raw, self.out = folder, raw, Path(raw["output"]["path"])

    def copy(self, to: Path) -> "Done":
        shutil.copytree(self.out, to / "out")
        return Done(to, {**self.raw, "output": {**self.raw["output"], "path": str(to / "out")}})

    def verify(self, *arguments: str, sample: int = 0) -> int:
        config = self.folder / "job.yaml"
        config.write_text(yaml.safe_dump(self.raw))
        return main(["verify", str(config), "--sample", str(sample), *arguments])

    def file(self, status: str = "ok") -> Path:
        return sorted((self.out / "data" / f"status={status}").iterdir())[0]

    def checkpoint(self) -> Path:
        return self.out / "_dray/checkpoint" / f"{task_of(self.file().name)}.parquet"

    def change(self, change: Callable[[list[dict]], object]) -> str:
        """Changes the rows of one file of finished ones. Returns the first one's id."""
        path = self.file()
        if path.suffix == ".parquet":
            table = pq.ParquetFile(path).read()
            rows = table.to_pylist()
            change(rows)
            schema = pa.schema([field for field in table.schema if field.name in rows[0]])
            pq.write_table(pa.Table.from_pylist(rows, schema), path)
        else:
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            change(rows)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(rows[0]["id"])


def rows_of(shard: int) -> pa.Table:
    texts: list = builders.texts(ROWS // 3, seed=shard)
    texts[5] = None
    names = [f"row {shard}-{index}" for index in range(len(texts))]
    return pa.table({"text": texts, "n": list(range(len(texts))), "name": names})


def job(models, folder: Path, **changes: object) -> dict:
    (folder / "in").mkdir()
    for shard in range(3):
        pq.write_table(rows_of(shard), folder / "in" / f"part:{shard}.parquet", row_group_size=10)
    raw = {
        "task": "text-classification",
        "model": models.text_classifier,
        "input": {"path": str(folder / "in")},
        "output": {"path": str(folder / "out"), "keep": ["n"]},
        "errors": {"max_failed_fraction": 0.5},
    }
    return {**raw, **changes}


@pytest.fixture(scope="module")
def parquet(models, ray_session, tmp_path_factory) -> Done:
    folder = tmp_path_factory.mktemp("parquet")
    raw = job(models, folder)
    run(parse_config(raw))
    return Done(folder, raw)


@pytest.fixture(scope="module")
def lines(models, ray_session, tmp_path_factory) -> Done:
    """JSON lines with ids of the user's own."""
    folder = tmp_path_factory.mktemp("lines")
    raw = job(models, folder, output={"path": str(folder / "out"), "keep": ["n"], "format": "jsonl"})
    raw["input"]["id"] = "name"
    run(parse_config(raw))
    return Done(folder, raw)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Several wait for each other longer than such a small model takes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=["parquet", "lines"])
def both(request, tmp_path) -> Done:
    return request.getfixturevalue(request.param).copy(tmp_path)


@pytest.fixture
def done(parquet: Done, tmp_path: Path) -> Done:
    return parquet.copy(tmp_path)


@pytest.fixture
def added(parquet: Done) -> Iterator[Path]:
    """A new file of the input, taken away afterwards."""
    path = Path(parquet.raw["input"]["path"]) / "part:new.parquet"
    pq.write_table(rows_of(7), path)
    yield path
    path.unlink()


@pytest.fixture
def removed(parquet: Done) -> Iterator[Path]:
    """A file that is gone from the input, brought back afterwards."""
    path = Path(parquet.raw["input"]["path"]) / "part:1.parquet"
    away = parquet.folder / "away"
    path.rename(away)
    yield path
    away.rename(path)


def everything_below(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_good_results_are_right_and_stay_as_they_are(both, capsys):
    before = everything_below(both.out)
    assert both.verify(sample=ROWS) == 0, capsys.readouterr().out
    said = " ".join(capsys.readouterr().out.split())
    assert "input 60 rows in 3 files ok 57 failed 3 left 0 balance 60 in = 57 ok + 3 failed + 0 left" in said
    assert "ids 60, each once" in said
    assert "57 rows done again, one by one; largest difference" in said
    assert said.endswith("verdict done, and all of it is right")
    assert everything_below(both.out) == before
    assert both.verify() == 0
    assert "sample" not in capsys.readouterr().out


def test_a_missing_file(both, capsys):
    path, checkpoint = both.file(), both.checkpoint()
    path.unlink()
    assert both.verify() == 1
    said = capsys.readouterr().out
    assert task_of(path.name) in said
    assert f"delete _dray/checkpoint/{checkpoint.name}, and dray run does its rows again" in said


def test_a_truncated_file(both, capsys):
    path = both.file()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert both.verify() == 1
    assert f"data/status=ok/{path.name}: " in capsys.readouterr().out


def test_a_row_that_is_there_twice(both, capsys):
    name = both.change(lambda rows: rows.append(rows[0]))
    assert both.verify() == 1
    said = capsys.readouterr().out
    own_ids = "id" not in both.raw["input"]
    assert (f"{name} is in it more than once" if own_ids else "were committed; delete") in said
    assert "1 of them more than once" in said


def test_a_score_that_was_changed(both, capsys):
    def change(rows: list[dict]) -> None:
        rows[0]["prediction"][0]["score"] += 0.01

    name = both.change(change)
    assert both.verify(sample=ROWS) == 1
    said = capsys.readouterr().out
    assert f"1 of 57 sampled rows differ from what is stored: {name} ([0].score: " in said
    assert "largest difference 0.01," in said
    assert both.verify("--tolerance", "0.02", sample=ROWS) == 0


def test_a_label_that_was_changed(both, capsys):
    def change(rows: list[dict]) -> None:
        rows[0]["prediction"][0]["label"] = "strange"

    name = both.change(change)
    assert both.verify(sample=ROWS) == 1
    assert f"{name} ([0].label: 'strange' is stored, and now it is '" in capsys.readouterr().out


def test_a_column_that_is_missing(both, capsys):
    both.change(lambda rows: [row.pop("n") for row in rows])
    assert both.verify() == 1
    assert f"{both.file().name}: it lacks the column n; delete" in capsys.readouterr().out


def test_a_column_of_another_type(done, capsys):
    path = done.file()
    table = pq.ParquetFile(path).read()
    pq.write_table(table.set_column(2, "n", table["n"].cast(pa.string())), path)
    assert done.verify() == 1
    assert "its column n is string, and should be int64" in capsys.readouterr().out


def test_a_write_task_that_was_not_committed(both, capsys):
    path = both.checkpoint()
    path.rename(path.with_name(path.name.replace(".parquet", PENDING)))
    assert both.verify() == 1
    said = capsys.readouterr().out
    assert f"1 write task did not finish: {task_of(path.name)}; the next dray run takes back" in said
    assert "left to do, the first in " in said


def test_failed_rows_that_were_taken_back(both, capsys):
    release(Folder(str(both.out), {}))
    assert both.verify(sample=ROWS) == 1
    said = capsys.readouterr().out
    assert "balance  60 in = 57 ok + 0 failed + 3 left" in said
    assert "57 rows done again" in said
    assert "differ" not in said.split("verdict")[1]
    (notes,) = (both.out / "_dray/retried").iterdir()
    notes.rename(notes.with_name(notes.stem + BEGUN))
    assert both.verify() == 1
    assert "did not finish" in capsys.readouterr().out


def test_a_commit_that_is_void(done, capsys):
    path = done.checkpoint()
    path.with_name(task_of(path.name) + VOID).touch()
    assert done.verify() == 1
    assert f"1 write task did not finish: {task_of(path.name)}" in capsys.readouterr().out


def test_a_task_that_was_written_twice(done, capsys):
    path, checkpoint = done.file(), done.checkpoint()
    name = task_of(path.name)
    other = name[:-1] + ("1" if name[-1] != "1" else "2") + "99"
    for each in (path, done.out / "data/status=failed" / path.name, checkpoint):
        if each.exists():
            shutil.copy(each, each.with_name(each.name.replace(name, other)))
    assert done.verify() == 1
    assert "were committed by two write tasks: " in capsys.readouterr().out


def test_a_file_of_unknown_origin(done, capsys):
    shutil.copy(done.file(), done.out / "data/status=ok/mine.parquet")
    assert done.verify() == 1
    assert "dray has not written data/status=ok/mine.parquet" in capsys.readouterr().out


def test_a_file_that_came_into_the_input(done, added, capsys):
    assert done.verify() == 1
    said = capsys.readouterr().out
    assert f"20 rows are left to do, the first in {added}; dray run does them" in said
    assert "balance  80 in = 57 ok + 3 failed + 20 left" in said


def test_a_file_that_left_the_input(done, removed, capsys):
    assert done.verify(sample=ROWS) == 0
    said = capsys.readouterr().out
    assert "20 finished rows are of files that are no longer in the input" in said
    assert "balance  40 in + 20 gone = 57 ok + 3 failed + 0 left" in said
    assert "19 more rows could not be found for certain in the input" in said


def test_a_file_of_the_input_that_was_changed(done, capsys):
    path = Path(done.raw["input"]["path"]) / "part:2.parquet"
    content, times = path.read_bytes(), path.stat()
    try:
        pq.write_table(rows_of(8), path)
        assert done.verify() == 1
        assert f"{path} changed after rows of it were finished" in capsys.readouterr().out
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_results_in_an_object_store(parquet, tmp_path, capsys):
    store = fsspec.filesystem("memory")
    store.put(str(parquet.out), "/verified/out", recursive=True)
    try:
        raw = {**parquet.raw, "output": {**parquet.raw["output"], "path": "memory://verified/out", "storage_options": {}}}
        assert Done(tmp_path, raw).verify(sample=5) == 0, capsys.readouterr().out
    finally:
        store.rm("/verified", recursive=True)


def test_results_of_other_work_and_none_at_all(done, tmp_path, capsys):
    assert done.verify("--set", "parameters.top_k=2") == 2
    assert "choose another folder, or --fresh" in capsys.readouterr().err
    assert done.verify("--set", f"output.path={tmp_path / 'nothing'}") == 1
    assert "60 rows are left to do" in capsys.readouterr().out
    assert not (tmp_path / "nothing").exists()


def test_predictions_are_compared_by_what_they_are():
    def png(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    grey, far = np.full((40, 40), 100), np.full((40, 40), 130)
    assert compare({"a": [1.0, None]}, {"a": [1.0, None]}, 1e-4).places == []
    assert compare([1.0, float("nan")], [1.00005, float("nan")], 1e-4).largest == pytest.approx(5e-5)
    assert compare([2000.0, 1.0], [2000.1, 1.0], 1e-4).places == []
    assert compare([2000.0, 1.0], [2000.1, 1.001], 1e-4).places == ["[1]: 1.0 is stored, and now it is 1.001"]
    assert compare([2000.0, 1.0], [2000.1, 1.001], 1e-4).largest == pytest.approx(0.1)
    assert len(compare([float("inf")], [1.0], 5.0).places) == len(compare([1.0], [float("nan")], 5.0).places) == 1
    assert compare([1.0], [1.0, 2.0], 1e-4).places == ["1 values are stored, and now there are 2"]
    assert compare({"n": 1}, {"n": 2}, 5.0).places == ["n: 1 is stored, and now it is 2"]
    assert compare(None, 0.5, 5.0).places == ["None is stored, and now it is 0.5"]
    assert compare(png(grey), png(grey + 1), 0.0).places == []
    assert len(compare(png(grey), png(far), 0.05).places) == 1
    assert len(compare(png(grey), png(grey[:20]), 0.05).places) == 1
