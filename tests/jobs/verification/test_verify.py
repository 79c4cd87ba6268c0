"""`dray verify` on good and damaged results."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.verified import ROWS, Done, job, rows_of

from dray.jobs.batch.job import run
from dray.jobs.outputs.commits import PENDING, VOID, task_of
from dray.jobs.outputs.retry import BEGUN, release
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import parse_config

FAILED = 3


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
    assert "balance   60 in = 57 ok + 0 failed + 3 left" in said
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
    assert "balance   80 in = 57 ok + 3 failed + 20 left" in said


def test_a_file_that_left_the_input(done, removed, capsys):
    assert done.verify(sample=ROWS) == 0
    said = capsys.readouterr().out
    assert "20 finished rows are of files that are no longer in the input" in said
    assert "balance   40 in + 20 gone = 57 ok + 3 failed + 0 left" in said
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
