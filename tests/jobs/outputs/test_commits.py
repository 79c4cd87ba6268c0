"""What interrupted write tasks leave behind, in every order, is taken back; what was committed stays."""

import contextlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dray.jobs.columns import ERROR_TYPE, KEY
from dray.jobs.keys import KeySet, first_key
from dray.jobs.outputs import retry
from dray.jobs.outputs.commits import CHECKPOINT, PENDING, VOID, committed_keys, finished_keys, roll_back, undo
from dray.jobs.outputs.retry import attempts, failed_keys, failed_rows, release, released_keys, resume
from dray.jobs.storage.folder import Folder
from dray.pipelines.config import parse_config

BASE = first_key("a.parquet")
ONE, TWO, THREE = (f"{digit * 32}_000000" for digit in "123")


@pytest.fixture
def output(tmp_path):
    return Folder(str(tmp_path / "out"), {})


def put(output: Folder, name: str, table: pa.Table) -> None:
    content = pa.BufferOutputStream()
    pq.write_table(table, content)
    output.write(name, content.getvalue().to_pybytes())


def write(output: Folder, task: str, positions: range, failed: tuple[int, ...] = (), suffix: str = ".parquet") -> None:
    """What a write task of these rows of a.parquet leaves."""
    keys = pa.array([BASE + position for position in positions], pa.uint64())
    put(output, f"{CHECKPOINT}/{task}{suffix}", pa.table({KEY: keys}))
    good = [position for position in positions if position not in failed]
    if good:
        put(output, f"data/status=ok/{task}.parquet", pa.table({"id": [str(position) for position in good]}))
    if failed:
        error = {"stage": "forward", "type": "ValueError", "message": "bad", "attempts": 1}
        rows = {"source": ["a.parquet"] * len(failed), "source_row": list(failed)}
        put(
            output,
            f"data/status=failed/{task}.parquet",
            pa.table({**rows, "error": pa.array([error] * len(failed), ERROR_TYPE)}),
        )


def positions(keys: KeySet) -> list[int]:
    return [key - BASE for key in keys.keys().tolist()]


def names(output: Folder) -> set[str]:
    return {path.removeprefix(output.path + "/") for path in output.files()}


def test_what_is_pending_goes_and_what_is_committed_stays(output):
    write(output, ONE, range(5))
    write(output, TWO, range(5, 9), failed=(6,), suffix=PENDING)
    assert positions(finished_keys(output)) == list(range(5))
    assert not [name for name in names(output) if TWO in name and not name.endswith(VOID)]
    assert f"data/status=ok/{ONE}.parquet" in names(output)


def test_a_task_that_was_repeated_after_its_commit_and_interrupted(output):
    """Both checkpoints are there, and the data may be half of a second attempt's."""
    write(output, ONE, range(5))
    write(output, ONE, range(5), suffix=PENDING)
    assert positions(finished_keys(output)) == []
    assert not [name for name in names(output) if name.startswith("data/")]


def test_a_commit_that_comes_too_late_does_not_count(output):
    """A worker that outlives its driver renames its checkpoint while, or after, its data are deleted."""
    write(output, ONE, range(5), suffix=PENDING)
    roll_back(output)
    write(output, ONE, range(5))
    assert positions(finished_keys(output)) == []
    assert not [name for name in names(output) if name.startswith("data/")]


def test_data_without_a_checkpoint_are_deleted_but_not_what_others_put_there(output):
    write(output, ONE, range(3))
    put(output, f"data/status=ok/{TWO}.parquet", pa.table({"id": ["9"]}))
    output.write(f"data/status=ok/.{THREE}.parquet.part", b"half")
    output.write("data/status=ok/notes.parquet", b"mine")
    finished_keys(output)
    left = {name for name in names(output) if name.startswith("data/")}
    assert left == {f"data/status=ok/{ONE}.parquet", "data/status=ok/notes.parquet"}


@pytest.mark.parametrize("dies_at", range(8))
def test_taking_back_may_be_interrupted_anywhere(output, monkeypatch, dies_at):
    write(output, ONE, range(4))
    write(output, ONE, range(4), suffix=PENDING)
    write(output, TWO, range(4, 8))
    calls = iter(range(100))
    monkeypatch.setattr("dray.jobs.outputs.commits.THREADS", 1)
    delete = type(output.fs).rm_file

    def dying(self, path):
        if next(calls) == dies_at:
            raise KeyboardInterrupt
        delete(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(type(output.fs), "rm_file", dying)
        with contextlib.suppress(KeyboardInterrupt):
            roll_back(output)
    assert positions(finished_keys(output)) == [4, 5, 6, 7]
    assert [name for name in sorted(names(output)) if name.startswith("data/")] == [f"data/status=ok/{TWO}.parquet"]


def test_undoing_some_rows_takes_back_the_tasks_that_wrote_them(output):
    write(output, ONE, range(4))
    write(output, TWO, range(4, 8))
    left = undo(output, KeySet.between([(BASE + 5, BASE + 6)]))
    assert positions(left) == [0, 1, 2, 3]
    assert list(committed_keys(output)) == [ONE]


def test_failed_rows_are_released_and_others_stay_finished(output):
    write(output, ONE, range(5), failed=(1, 3))
    write(output, TWO, range(5, 8), failed=(5, 6, 7))
    write(output, THREE, range(8, 10))
    assert failed_rows(output) == 5
    assert positions(release(output)) == [1, 3, 5, 6, 7]
    assert positions(finished_keys(output)) == [0, 2, 4, 8, 9]
    assert failed_rows(output) == 0
    assert {key - BASE: count for key, count in attempts(output).items()} == {1: 1, 3: 1, 5: 1, 6: 1, 7: 1}
    assert release(output).keys().tolist() == []
    assert positions(released_keys(output)) == [1, 3, 5, 6, 7]


@pytest.mark.parametrize("dies_at", range(5))
def test_releasing_may_be_interrupted_anywhere(output, monkeypatch, dies_at):
    write(output, ONE, range(5), failed=(1, 3))
    write(output, TWO, range(5, 8), failed=(5, 6, 7))
    steps = iter(range(100))

    def dying(step):
        def wrapped(*arguments, **options):
            if next(steps) == dies_at:
                raise KeyboardInterrupt
            return step(*arguments, **options)

        return wrapped

    with monkeypatch.context() as patch:
        patch.setattr(type(output.fs), "rm_file", dying(type(output.fs).rm_file))
        patch.setattr(type(output.fs), "mv", dying(type(output.fs).mv))
        patch.setattr(retry, "_forget", dying(retry._forget))
        with contextlib.suppress(KeyboardInterrupt):
            release(output)
    resume(output)
    assert positions(finished_keys(output)) == [0, 2, 4]
    assert failed_rows(output) == 0
    assert positions(released_keys(output)) == [1, 3, 5, 6, 7]


def test_rows_that_two_tasks_have_written_are_taken_back_from_the_later(output):
    write(output, ONE, range(5))
    write(output, TWO, range(4, 8))
    write(output, THREE, range(8, 9))
    assert positions(finished_keys(output)) == [0, 1, 2, 3, 4, 8]
    assert not [name for name in names(output) if TWO in name and not name.endswith(VOID)]


def test_a_checkpoint_without_content_counts_as_none(output):
    write(output, ONE, range(5))
    write(output, TWO, range(5, 8))
    output.write(f"{CHECKPOINT}/{ONE}.parquet", b"")
    assert positions(finished_keys(output)) == [5, 6, 7]
    assert not [name for name in names(output) if name.startswith("data/") and ONE in name]


def test_what_others_leave_beside_failed_rows_is_no_hindrance(output):
    write(output, ONE, range(5), failed=(1,))
    output.write("data/status=failed/.DS_Store", b"x")
    output.write(f"data/status=failed/.{TWO}.parquet.part", b"half")
    output.write("_dray/retried/x.begun.parquet.77.tmp", b"half")
    assert failed_rows(output) == 1
    assert positions(failed_keys(output)) == [1]
    assert attempts(output) == {}


def test_failed_rows_of_json_lines(output):
    write(output, ONE, range(3), failed=(1,))
    error = {"stage": "read", "type": "ValueError", "message": "a\u2028b", "attempts": 2}
    rows = [
        {"id": "x", "source": name, "source_row": row, "error": error} for name, row in (("2026-01-01", None), ("a.parquet", 7))
    ]
    keys = pa.array([first_key("2026-01-01") - 1, BASE + 7], pa.uint64())
    put(output, f"{CHECKPOINT}/{TWO}.parquet", pa.table({KEY: keys}))
    output.write(f"data/status=failed/{TWO}.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert failed_rows(output) == 3
    assert sorted(release(output).keys().tolist()) == sorted([*keys.to_pylist(), BASE + 1])
    assert attempts(output)[BASE + 7] == 2


@pytest.mark.parametrize("dies_at", range(8))
def test_starting_afresh_may_be_interrupted_anywhere(output, monkeypatch, dies_at):
    from dray.jobs.outputs.fingerprint import claim

    config = parse_config({"model": "m", "input": {"path": "in"}, "output": {"path": output.url}})
    claim(output, {"model": "m"}, config, fresh=False)
    write(output, ONE, range(4), failed=(2,))
    steps, remove = iter(range(100)), Folder.remove

    def dying(self):
        if next(steps) == dies_at:
            raise KeyboardInterrupt
        remove(self)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "remove", dying)
        with contextlib.suppress(KeyboardInterrupt):
            claim(output, {"model": "m"}, config, fresh=True)
    finished = positions(finished_keys(output))
    rows = [name for name in names(output) if name.startswith("data/")]
    assert (finished, len(rows)) in [([0, 1, 2, 3], 2), ([], 0)]
