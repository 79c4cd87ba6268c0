"""Every input format: its rows, their ids and keys from run to run, and what is said about what cannot be read."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from support.reading import CODECS, NONE, SPEECH, TEXT, cells, opened, packed, rows, tar, touch

from dray.jobs.batch.datasource import READ_ROWS, first_rows, pieces, tables
from dray.jobs.columns import ARGUMENT, ID, KEEP, KEY, SOURCE
from dray.jobs.inputs.formats.registry import FORMATS, format_of
from dray.jobs.keys import KeySet, first_key
from dray.pipelines.config import InputConfig, parse_config
from dray.pipelines.errors import InputError

# Formats and suffixes


def test_the_config_and_the_table_know_the_same_formats():
    kinds, _ = get_args(InputConfig.model_fields["format"].annotation)
    assert set(get_args(kinds)) == set(FORMATS)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.parquet", "parquet"), ("a.JSONL", "jsonl"), ("a.json.gz", "jsonl"), ("a.csv.zst", "csv"), ("a.txt", "text"),
        ("a.txt.bz2", "text"), ("a.FLAC", "files"), ("a.jpeg", "files"), ("a.mov", "files"), ("a.tar", "webdataset"),
        ("a.tar.gz", "webdataset"), ("a.tgz", "webdataset"), ("a.arrow", "arrow"), ("a.feather", "arrow"),
        ("a.parquet.gz", None), ("a.wav.gz", None), ("a.xyz", None), ("a", None), ("a.gz", None),
    ],
)  # fmt: skip
def test_formats_by_suffix(name, kind):
    found = format_of(f"bucket.txt/folder/{name}")
    assert (found.name if found else None) == kind


# Text lines


def test_lines_of_text_are_rows(tmp_path):
    file = packed(tmp_path / "a.txt", "\ufeffwater\r\n\nzwölf \u2028 Züge\n last".encode())
    data = opened(file)
    assert data.rows == 4
    found = rows(data)
    assert [row[ARGUMENT + "text"] for row in found] == ["water", "", "zwölf \u2028 Züge", " last"]
    assert [row[ID] for row in found] == [f"{file}:{n}" for n in range(4)]
    assert {row[SOURCE] for row in found} == {str(file)}
    assert [row[KEY] for row in found] == [first_key(str(file)) + place for place in range(4)]
    assert first_rows(data, pieces(data, NONE), 2).num_rows == 2


def test_lines_across_blocks_come_out_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("dray.jobs.inputs.formats.lines.BLOCK_BYTES", 7)
    lines = ["", "ein längerer Satz mit Umlauten: äöü", "x" * 50, "", "end"]
    data = opened(packed(tmp_path / "a.txt.gz", "\r\n".join(lines).encode() + b"\r\n"))
    assert data.rows == 5
    assert cells(data) == lines


def test_many_lines_make_bounded_tables(tmp_path):
    data = opened(packed(tmp_path / "a.txt", b"\n" * 20_000))
    read = list(tables(data.filesystem, pieces(data, NONE), data.columns, NONE))
    assert sum(table.num_rows for table in read) == data.rows == 20_000
    assert max(table.num_rows for table in read) <= READ_ROWS


@pytest.mark.parametrize("content", ["water\nzwölf\n".encode("latin-1"), "water".encode("utf-16"), b"water\ncut \xc3"])
def test_text_that_is_not_utf8_is_refused(tmp_path, content):
    packed(tmp_path / "a.txt", content)
    with pytest.raises(InputError, match=r"a\.txt is not a readable text file: line [12] is not UTF-8"):
        opened(tmp_path / "a.txt")


def test_a_line_longer_than_memory_allows_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("dray.jobs.inputs.formats.lines.LONGEST", 100)
    monkeypatch.setattr("dray.jobs.inputs.formats.lines.BLOCK_BYTES", 30)
    packed(tmp_path / "a.txt", b"water\n" + b"x" * 500)
    with pytest.raises(InputError, match=r"a\.txt .* line 2 is longer than 100 bytes"):
        opened(tmp_path / "a.txt")


# Compressed files


@pytest.mark.parametrize("suffix", ["", *CODECS])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_compressed_files(tmp_path, kind, suffix):
    lines = {
        "jsonl": [json.dumps({"n": n, "text": f"t{n}", "unused": [n]}) for n in range(9)],
        "csv": ["n,text", *(f"{n},t{n}" for n in range(9))],
        "txt": [f"t{n}" for n in range(9)],
    }[kind]
    data = opened(packed(tmp_path / f"a.{kind}{suffix}", "\n".join(lines).encode()), keep=() if kind == "txt" else ("n",))
    assert data.rows == 9
    assert cells(data) == [f"t{n}" for n in range(9)]
    if kind != "txt":
        assert [row[KEEP + "n"] for row in rows(data)] == list(range(9))


@pytest.mark.parametrize(
    "name",
    ["a.txt", "a.jsonl", "a.csv", "a.txt.gz", "a.jsonl.zst", "a.csv.bz2"],
)
def test_empty_files_hold_no_rows(tmp_path, name):
    packed(tmp_path / name, b"")
    with pytest.raises(InputError, match=r"holds no rows"):
        opened(tmp_path / name)


@pytest.mark.parametrize("name", ["a.arrow", "a.tar", "a.tar.gz", "a.parquet"])
def test_files_that_cannot_be_empty_are_damaged(tmp_path, name):
    packed(tmp_path / name, b"")
    with pytest.raises(InputError, match=rf"{name} is not a readable "):
        opened(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["a.jsonl.gz", "a.csv.zst", "a.txt.gz", "a.arrow", "a.feather", "a.tar", "a.tar.gz", "a.parquet"]
)
def test_damaged_files_are_told_in_one_sentence(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is \xff no such file at all, and it is longer than any header" * 20)
    with pytest.raises(InputError, match=rf"{name} is not a readable \w+ file: ") as error:
        opened(tmp_path / name)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_csv_keeps_line_breaks_in_quotes_and_refuses_a_column_twice(tmp_path):
    (tmp_path / "a.csv").write_text('text,n\n"two\nlines",1\nNA,2\n')
    assert cells(opened(tmp_path / "a.csv")) == ["two\nlines", "NA"]
    (tmp_path / "b.csv").write_text("text,text\na,b\n")
    with pytest.raises(InputError, match=r"b\.csv .* column text twice"):
        opened(tmp_path / "b.csv")


def test_a_column_without_values_in_a_line_is_null(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"other": 1}\n\n{"text": "c", "other": 2}\n')
    data = opened(tmp_path / "a.jsonl", keep=("other",))
    assert [(row[ARGUMENT + "text"], row[KEEP + "other"]) for row in rows(data)] == [("a", None), (None, 1), ("c", 2)]


# Lists of paths


def test_a_list_of_paths(tmp_path):
    for name in "ba":
        (tmp_path / f"{name}.txt").write_text(name)
    assert sorted(cells(opened([tmp_path / "b.txt", tmp_path / "*.txt"]))) == ["a", "b"]
    with pytest.raises(InputError, match=r"input\.path: .*b\.txt and memory://x lie in different storages \(file, memory\)"):
        opened([tmp_path / "b.txt", "memory://x"])


def test_tables_of_several_formats_go_together(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "n": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text('{"n": 2, "text": "b"}\n')
    (tmp_path / "dataset_info.json").write_text("{}")
    assert cells(opened(tmp_path)) == ["a", "b"]


# From run to run


def write_two(folder: Path, kind: str, name: str) -> None:
    """A file of two rows; for media two files."""
    folder.mkdir(exist_ok=True)
    table = pa.table({"text": ["x", "y"]})
    if kind == "files":
        touch(folder, f"{name}1.wav", f"{name}2.wav")
    elif kind == "webdataset":
        tar(folder / f"{name}.tar", {"1.txt": b"x", "2.txt": b"y"})
    elif kind == "arrow":
        pyarrow.feather.write_feather(table, folder / f"{name}.feather")
    elif kind == "parquet":
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=1)
    else:
        lines = [json.dumps({"custom_id": f"x/{name}{number}"}) for number in (1, 2)]
        content = {
            "openai": "".join(line + "\n" for line in lines),
            "text": "x\ny\n",
            "csv": "text\nx\ny\n",
            "jsonl": '{"text": "x"}\n{"text": "y"}\n',
        }[kind]
        (folder / f"{name}.{kind.replace('text', 'txt').replace('openai', 'jsonl')}").write_text(content)


@pytest.mark.parametrize("kind", list(FORMATS))
def test_ids_and_keys_stay_when_files_are_added_and_finished_rows_drop_out(tmp_path, kind):
    folder, task = tmp_path / "in", {"files": SPEECH, "openai": "text-generation"}.get(kind, TEXT)
    given = {"format": kind} if kind == "openai" else {}
    write_two(folder, kind, "m")
    before = rows(opened(folder, task, **given))
    assert len({row[KEY] for row in before}) == len({row[ID] for row in before}) == 2
    write_two(folder, kind, "a")
    write_two(folder, kind, "z")
    data = opened(folder, task, **given)
    after = {row[ID]: row[KEY] for row in rows(data, tasks=3)}
    assert len(after) == 6
    assert {row[ID]: row[KEY] for row in before}.items() <= after.items()
    done = np.sort(np.array([before[0][KEY], *(key for name, key in after.items() if "/z" in name)], np.uint64))
    left = rows(data, finished=KeySet.of(done))
    assert {row[ID] for row in left} == {name for name, key in after.items() if key not in done}
    assert len(left) == 3


# A whole job


def test_jobs_over_files_and_over_a_tar_of_them_agree(ray_session, models, tmp_path):
    import soundfile as sf
    from support import builders

    from dray.jobs.batch.job import run

    (tmp_path / "sounds").mkdir()
    for seed in range(3):
        sf.write(tmp_path / f"sounds/{seed}.wav", builders.sound(1, seed), builders.RATE)
    (tmp_path / "sounds/empty.wav").touch()
    tar(tmp_path / "sounds.tar", {file.name: file.read_bytes() for file in sorted((tmp_path / "sounds").iterdir())})
    results = []
    for where in ("sounds", "sounds.tar"):
        output = tmp_path / f"out-{where}"
        raw = {"model": models.ctc, "input": {"path": str(tmp_path / where)}, "output": {"path": str(output)}}
        raw |= {"parameters": {"chunk_length_s": 5}, "errors": {"max_failed_fraction": 0.5}}
        summary = run(parse_config(raw))
        assert (summary["rows_ok"], summary["rows_failed"]) == (3, 1)
        done = pq.read_table(output / "data/status=ok").sort_by("id")
        results.append((done["id"].to_pylist(), done["prediction"].to_pylist()))
    assert results[0][0] == [str(tmp_path / f"sounds/{n}.wav") for n in range(3)]
    assert results[1][0] == [f"{tmp_path}/sounds.tar:{n}" for n in range(3)]
    assert results[0][1] == results[1][1]


def test_a_column_has_one_type_in_all_files(tmp_path):
    (tmp_path / "a.csv").write_text("text,k\nthe,1\n")
    (tmp_path / "b.csv").write_text("text,k\na,2.5\nof,\n")
    data = opened(tmp_path, keep=("k",))
    assert [row[KEEP + "k"] for row in rows(data)] == [1.0, 2.5, None]
    (tmp_path / "c.csv").write_text("text,k\nand,x1\n")
    with pytest.raises(InputError, match=r"column k is double in .*a.csv and string in .*c.csv; make them one type"):
        opened(tmp_path, keep=("k",))
