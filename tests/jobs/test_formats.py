"""Every input format: its rows, their ids and keys from run to run, and what is said about what cannot be read."""

import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from jobs.formats.table import FORMATS, format_of
from jobs.keys import KeySet, first_key
from jobs.read import READ_ROWS, RowsDatasource, first_rows, pieces, tables
from jobs.rows import ARGUMENT, ID, KEEP, KEY, SOURCE
from jobs.sources import Input, open_input
from pipelines.config import InputConfig, parse_config
from pipelines.errors import InputError
from pipelines.models.loading import resolve_task

NONE = KeySet()
TEXT, SPEECH, IMAGE = "text-classification", "automatic-speech-recognition", "image-classification"
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


def opened(path: object, task: str = TEXT, keep: tuple[str, ...] = (), **given: object) -> Input:
    where = [str(one) for one in path] if isinstance(path, list) else str(path)
    raw = {"model": "m", "input": {"path": where, **given}, "output": {"path": "out", "keep": list(keep)}}
    config = parse_config({"task": task, **raw})
    return open_input(config, resolve_task(config))


def rows(data: Input, tasks: int = 1, finished: KeySet = NONE) -> list[dict]:
    """What the read tasks yield, one after the other."""
    groups = np.array_split(np.array(pieces(data, finished), object), tasks)
    read = (table for group in groups for table in tables(data.filesystem, group, data.columns, finished))
    return [row for table in read for row in table.to_pylist()]


def cells(data: Input, argument: str = "text") -> list[object]:
    return [row[ARGUMENT + argument] for row in rows(data)]


def packed(path: Path, content: bytes) -> Path:
    """Writes a file, compressed as its suffix says."""
    codec = CODECS.get(path.suffix)
    with pa.CompressedOutputStream(str(path), codec) if codec else path.open("wb") as file:
        file.write(content)
    return path


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked at")


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
    monkeypatch.setattr("jobs.formats.lines.BLOCK_BYTES", 7)
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
    monkeypatch.setattr("jobs.formats.lines.LONGEST", 100)
    monkeypatch.setattr("jobs.formats.lines.BLOCK_BYTES", 30)
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


# Files that are rows


def test_each_media_file_is_a_row(tmp_path):
    touch(tmp_path, "b.wav", "deep/er/a.FLAC", ".hidden.wav", "_old/c.wav", "d.m4a")
    data = opened(tmp_path, SPEECH, keep=("file_name",))
    found = {row[ID]: row for row in rows(data)}
    names = ["b.wav", "d.m4a", "deep/er/a.FLAC"]
    assert list(found) == [str(tmp_path / name) for name in names]
    assert [row[ARGUMENT + "audio"] for row in found.values()] == list(found)
    assert [row[KEEP + "file_name"] for row in found.values()] == ["b.wav", "d.m4a", "a.FLAC"]
    assert all(row[SOURCE] == row[ID] and row[KEY] == first_key(row[ID]) for row in found.values())
    assert opened(tmp_path / "*.wav", SPEECH).rows == opened(tmp_path / "b.wav", SPEECH).rows == 1
    assert first_rows(data, pieces(data, NONE), 2)[ID].to_pylist() == list(found)[:2]


def test_paths_are_absolute_and_names_as_the_user_writes_them(tmp_path, monkeypatch):
    touch(tmp_path, "sounds/a.wav")
    monkeypatch.chdir(tmp_path)
    (row,) = rows(opened("sounds", SPEECH))
    assert (row[ID], row[ARGUMENT + "audio"]) == ("sounds/a.wav", str(tmp_path / "sounds/a.wav"))


def test_paths_in_object_stores_are_urls():
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/calls/a.wav": b"x", "/calls/b.wav": b"y"})
    found = rows(opened("memory://calls/*.wav", SPEECH))
    assert [row[ARGUMENT + "audio"] for row in found] == [row[ID] for row in found]
    assert [fsspec.open(row[ID]).open().read() for row in found] == [b"x", b"y"]
    memory.rm("/calls", recursive=True)


def test_paths_in_an_archive_are_urls(tmp_path):
    import fsspec

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("deep/a.wav", "x")
    (row,) = rows(opened(f"zip://deep/*.wav::{tmp_path}/a.zip", SPEECH))
    assert fsspec.open(row[ARGUMENT + "audio"]).open().read() == b"x"


def test_empty_media_files_are_rows_too(tmp_path):
    (tmp_path / "a.wav").touch()
    assert opened(tmp_path, SPEECH).rows == 1


def test_thousands_of_files_are_listed_once_and_read_as_few_tables(tmp_path, monkeypatch):
    from fsspec.implementations.local import LocalFileSystem

    names = [f"{n % 10}/{n:05d}.wav" for n in range(5000)]
    for folder in range(10):
        (tmp_path / str(folder)).mkdir()
    for name in names:
        (tmp_path / name).touch()
    for call in ("size", "isdir", "exists", "open", "isfile"):
        monkeypatch.setattr(LocalFileSystem, call, _at_most(5, getattr(LocalFileSystem, call)))
    data = opened(tmp_path, SPEECH)
    left = pieces(data, NONE)
    assert data.rows == len(left) == 5000
    read = list(tables(data.filesystem, left, data.columns, NONE))
    assert len(read) == -(-5000 // READ_ROWS)
    assert sorted(row for table in read for row in table[ID].to_pylist()) == sorted(str(tmp_path / name) for name in names)
    assert 4 <= len(RowsDatasource(data, left, NONE, tasks=4)) <= 5


def _at_most(times: int, call):
    calls = []

    def counted(*args, **kwargs):
        calls.append(args)
        assert len(calls) <= times, f"a call per file: {call.__name__}"
        return call(*args, **kwargs)

    return counted


@pytest.mark.parametrize("other", ["a.csv", "a.txt", "a.tar", "a.parquet"])
def test_a_folder_of_files_and_tables_is_ambiguous(tmp_path, other):
    touch(tmp_path, "a.wav", other)
    with pytest.raises(InputError, match=r"input\.path: .* holds both .*\(.*a\.\w+\) and .*\); set input\.format, or a glob"):
        opened(tmp_path, SPEECH)
    assert [Path(row[ID]).name for row in rows(opened(tmp_path, SPEECH, format="files"))] == ["a.wav"]


def test_a_folder_of_unknown_files_names_the_formats(tmp_path):
    touch(tmp_path, "a.xyz", "b")
    with pytest.raises(InputError, match=r"no file of a known format in .*: parquet, jsonl, csv, text, files"):
        opened(tmp_path, SPEECH)
    assert opened(tmp_path, SPEECH, format="files").rows == 2
    with pytest.raises(InputError, match=r"input\.format: cannot tell the format of .*a\.xyz by its suffix; set it to one"):
        opened(tmp_path / "a.xyz", SPEECH)


def test_the_forced_format_takes_any_suffix_and_leaves_what_is_another_format(tmp_path):
    touch(tmp_path, "a.wav", "b.sph", "metadata.csv")
    assert {Path(row[ID]).name for row in rows(opened(tmp_path, SPEECH, format="files"))} == {"a.wav", "b.sph"}
    (tmp_path / "logs").mkdir()
    packed(tmp_path / "logs" / "x.log", b"a\nb\n")
    assert opened(tmp_path / "logs", format="text").rows == 2
    touch(tmp_path, "logs/y.wav")
    assert opened(tmp_path / "logs" / "*.log", format="text").rows == 2


def test_links_are_followed_to_files_and_broken_ones_are_rows_that_fail(tmp_path):
    touch(tmp_path, "blobs/1", "blobs/more/2.wav")
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.wav").symlink_to("../blobs/1")
    (tmp_path / "in/b.wav").symlink_to("../blobs/gone")
    (tmp_path / "in/c").symlink_to("../blobs/more")
    assert [Path(row[ID]).name for row in rows(opened(tmp_path / "in", SPEECH))] == ["a.wav", "b.wav"]


def test_folders_and_files_with_glob_characters_in_their_names(tmp_path):
    touch(tmp_path, "[2024] calls/a.wav")
    assert opened(tmp_path / "[2024] calls", SPEECH).rows == 1
    hidden = tmp_path / ".cache"
    touch(hidden, "x1.wav")
    assert opened(hidden / "x?.wav", SPEECH).rows == 1


# Tars


SAMPLES = {
    "train/000.jpg": b"\xff\xd8jpg0", "train/000.json": b'{"n": 0}', "train/000.seg.png": b"png0",
    "train/001.JPG": b"\xff\xd8jpg1", "train/001.cls": b"7",
    "train/002.txt": "zwölf".encode(), "train/002.jpg": b"jpg2",
}  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), [("a.tar", "w"), ("a.tar.gz", "w:gz"), ("a.tgz", "w:gz"), ("a.tar.bz2", "w:bz2")])
def test_samples_of_a_tar_are_rows(tmp_path, name, mode):
    file = tar(tmp_path / name, SAMPLES, mode)
    keep = ("__key__", "json", "cls", "txt", "seg.png")
    data = opened(file, IMAGE, keep=keep)
    assert data.rows == 3
    found = rows(data)
    assert [row[ARGUMENT + "image"] for row in found] == [b"\xff\xd8jpg0", b"\xff\xd8jpg1", b"jpg2"]
    assert [row[KEEP + "__key__"] for row in found] == ["train/000", "train/001", "train/002"]
    assert [row[KEEP + "json"] for row in found] == ['{"n": 0}', None, None]
    assert [row[KEEP + "cls"] for row in found] == [None, "7", None]
    assert [row[KEEP + "txt"] for row in found] == [None, None, "zwölf"]
    assert [row[KEEP + "seg.png"] for row in found] == [b"png0", None, None]
    assert [row[ID] for row in found] == [f"{file}:{n}" for n in range(3)]


def test_members_that_are_no_data_are_left_out(tmp_path):
    members = {"./a/._1.jpg": b"mac", "./a/1.jpg": b"x", "./README": b"hi", "__meta__/info.json": b"{}", "./a/b.c/1.jpg": b"y"}
    data = opened(tar(tmp_path / "a.tar", members), IMAGE, keep=("__key__",))
    assert [row[KEEP + "__key__"] for row in rows(data)] == ["./a/1", "./a/b.c/1"]


def test_only_the_text_that_is_text_becomes_text(tmp_path):
    data = opened(tar(tmp_path / "a.tar", {"1.txt": b"a\xff", "2.txt": b"b"}))
    assert cells(data) == [None, "b"]  # the row fails, its neighbours do not


def test_the_column_of_a_tar_is_found_by_its_kind(tmp_path):
    file = tar(tmp_path / "a.tar", {"1.flac": b"x", "1.txt": b"a", "1.json": b"{}"})
    assert opened(file, SPEECH).columns.arguments == {"audio": "flac"}
    assert opened(file, TEXT).columns.arguments == {"text": "txt"}
    assert opened(file, TEXT, columns={"text": "json"}).columns.arguments == {"text": "json"}
    with pytest.raises(InputError, match=r"input\.columns\.image: .*a\.tar has no column image; known are __key__, flac, txt"):
        opened(file, IMAGE)
    both = tar(tmp_path / "b.tar", {"1.jpg": b"x", "2.png": b"y", "2.seg.png": b"z"})
    with pytest.raises(InputError, match=r"input\.columns\.image: .*b\.tar has the columns jpg and png; choose one"):
        opened(both, IMAGE)


def test_shards_may_differ_where_it_does_not_matter(tmp_path):
    tar(tmp_path / "0.tar", {"1.jpg": b"x", "1.json": b"{}"})
    tar(tmp_path / "1.tar", {"1.jpg": b"y", "1.cls": b"1"})
    assert len(rows(opened(tmp_path, IMAGE))) == 2
    with pytest.raises(InputError, match=r"output\.keep: .*1\.tar has no column json"):
        opened(tmp_path, IMAGE, keep=("json",))


def test_a_member_twice_and_a_cut_tar_are_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("1.jpg"))
    with pytest.raises(InputError, match=r"a\.tar is not a readable webdataset file: it holds 1\.jpg twice"):
        opened(tmp_path / "a.tar", IMAGE)
    file = tar(tmp_path / "b.tar", {f"{n}.jpg": bytes(5000) for n in range(3)})
    file.write_bytes(file.read_bytes()[:9000])
    with pytest.raises(InputError, match=r"b\.tar is not a readable webdataset file"):
        opened(file, IMAGE)


def test_large_samples_make_several_tables(tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.formats.tars.READ_BYTES", 10_000)
    monkeypatch.setattr("jobs.read.READ_BYTES", 10_000)
    data = opened(tar(tmp_path / "a.tar", {f"{n}.wav": bytes(3000) for n in range(20)}), SPEECH)
    read = list(tables(data.filesystem, pieces(data, NONE), data.columns, NONE))
    assert sum(table.num_rows for table in read) == 20
    assert len(read) == 5


# Arrow


def test_a_saved_dataset(tmp_path):
    from datasets import Dataset

    dataset = Dataset.from_dict({"text": [f"t{n}" for n in range(10)], "n": list(range(10))})
    dataset.save_to_disk(tmp_path / "set", num_shards=3)
    touch(tmp_path / "set", "left-over.arrow")
    data = opened(tmp_path / "set", keep=("n",))
    assert [Path(source.name).name for source in data.sources] == [f"data-{n:05d}-of-00003.arrow" for n in range(3)]
    found = rows(data)
    assert [row[ARGUMENT + "text"] for row in found] == dataset["text"]
    assert [row[KEEP + "n"] for row in found] == dataset["n"]
    assert found[4][ID] == f"{tmp_path}/set/data-00001-of-00003.arrow:0"
    assert opened(tmp_path / "set" / "data-00001*").rows == 3


def test_a_saved_dataset_of_audio_passes_through(tmp_path):
    from datasets import Audio, Dataset, DatasetInfo, Features

    table = pa.table({"audio": [{"bytes": b"RIFF", "path": "a.wav"}] * 3})
    Dataset(table, DatasetInfo(features=Features({"audio": Audio(decode=False)}))).save_to_disk(tmp_path / "set")
    assert cells(opened(tmp_path / "set", SPEECH), "audio") == table["audio"].to_pylist()


def test_a_saved_dict_of_datasets_asks_for_a_split(tmp_path):
    from datasets import Dataset, DatasetDict

    split = Dataset.from_dict({"text": ["a"]})
    DatasetDict(train=split, test=split).save_to_disk(tmp_path / "set")
    with pytest.raises(InputError, match=rf"input\.path: {tmp_path}/set holds the splits train, test; .*{tmp_path}/set/train"):
        opened(tmp_path / "set")
    assert opened(tmp_path / "set/train").rows == 1


@pytest.mark.parametrize("kind", ["stream", "file", "feather"])
def test_plain_arrow_files(tmp_path, kind, monkeypatch):
    monkeypatch.setattr("jobs.formats.streams.READ_BYTES", 200)
    table = pa.table({"n": list(range(50)), "text": [f"t{n}" for n in range(50)]})
    path = tmp_path / ("a.feather" if kind == "feather" else "a.arrow")
    if kind == "feather":
        pyarrow.feather.write_feather(table, path, compression="zstd")
    else:
        with {"stream": pa.ipc.new_stream, "file": pa.ipc.new_file}[kind](path, table.schema) as writer:
            writer.write_table(table, max_chunksize=20)
    data = opened(path)
    assert data.rows == 50
    read = list(tables(data.filesystem, pieces(data, NONE), data.columns, NONE))  # alive after the file is closed
    assert [cell for part in read for cell in part[ARGUMENT + "text"].to_pylist()] == table["text"].to_pylist()


def test_arrow_in_an_object_store():
    import fsspec

    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, pa.schema({"text": pa.string()})) as writer:
        writer.write_table(pa.table({"text": ["a", "b"]}))
    memory = fsspec.filesystem("memory")
    memory.pipe("/set/a.arrow", buffer.getvalue())
    assert cells(opened("memory://set")) == ["a", "b"]
    memory.rm("/set", recursive=True)


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


# The hub


@pytest.fixture
def hub(monkeypatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """The endpoint of a hub with one dataset, `user/name`, and its files by path."""
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            info, resolve = "/api/datasets/user/name", "/datasets/user/name/resolve/main/"
            tree = f"{info}/tree/main"
            if path in (info, f"{info}/revision/main"):
                self.answer(json.dumps({"id": "user/name", "siblings": []}).encode())
            elif path.startswith(tree):
                self.list_tree(path.removeprefix(tree).strip("/"))
            elif path.startswith(resolve):
                self.send(files[path.removeprefix(resolve)])
            else:
                self.answer(b"{}", 404, {"X-Error-Code": "RepoNotFound"})

        def list_tree(self, folder: str) -> None:
            below = f"{folder}/" if folder else ""
            inside = {name: content for name, content in files.items() if name.startswith(below)}
            if not inside:
                self.answer(b"{}", 404, {"X-Error-Code": "EntryNotFound"})
                return
            entries = [{"type": "file", "path": name, "oid": "0", "size": len(content)} for name, content in inside.items()]
            folders = {name.rpartition("/")[0] for name in inside if "/" in name.removeprefix(below)}
            entries += [{"type": "directory", "path": name, "oid": "0", "size": 0} for name in folders]
            if "recursive=True" not in self.path and "recursive=true" not in self.path:
                entries = [entry for entry in entries if "/" not in entry["path"].removeprefix(below)]
            self.answer(json.dumps(entries).encode())

        def send(self, content: bytes) -> None:
            start, _, end = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            self.answer(content[int(start) : int(end) + 1 if end else None], 206)

        def answer(self, content: bytes, status: int = 200, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


def parquet(texts: list[str]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table({"text": texts}), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("path", "count"),
    [
        ("hf://datasets/user/name", 5), ("hf://user/name", 5), ("hf://user/name/data/train*.parquet", 3),
        ("hf://user/name@main/data", 5), ("hf://datasets/user/name/data/test.parquet", 2),
    ],
)  # fmt: skip
def test_a_dataset_of_the_hub(hub, path, count):
    endpoint, files = hub
    files |= {
        "README.md": b"# Card", ".gitattributes": b"*", "dataset_infos.json": b"{}",
        "data/train-0.parquet": parquet(["a", "b", "c"]), "data/test.parquet": parquet(["d", "e"]),
    }  # fmt: skip
    data = opened(path, storage_options={"endpoint": endpoint})
    found = rows(data)
    assert len(found) == count
    revision = "@main" if "@" in path else ""
    assert f"hf://datasets/user/name{revision}/data/test.parquet:1" in [row[ID] for row in found] or count == 3


def test_media_files_of_the_hub_are_urls_that_open(hub):
    import fsspec

    endpoint, files = hub
    files |= {"audio/a.wav": b"RIFFa", "audio/b.wav": b"RIFFb"}
    found = rows(opened("hf://user/name", SPEECH, storage_options={"endpoint": endpoint}))
    assert [row[ARGUMENT + "audio"] for row in found] == [f"hf://datasets/user/name/audio/{name}.wav" for name in "ab"]
    with fsspec.open(found[1][ARGUMENT + "audio"], endpoint=endpoint) as file:
        assert file.read() == b"RIFFb"


def test_datasets_that_the_hub_does_not_have(hub, monkeypatch):
    endpoint, _ = hub
    with pytest.raises(InputError, match=r"input\.path: there is no file at hf://user/other"):
        opened("hf://user/other", storage_options={"endpoint": endpoint})
    with pytest.raises(InputError, match=r"input\.path: cannot list hf://name: .*namespace/name"):
        opened("hf://name", storage_options={"endpoint": endpoint})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"input\.path: cannot list hf://user/name: .*offline mode is enabled"):
        opened("hf://user/name", storage_options={"endpoint": endpoint, "skip_instance_cache": True})


# A whole job


def test_jobs_over_files_and_over_a_tar_of_them_agree(ray_session, models, tmp_path):
    import builders
    import soundfile as sf

    from jobs.run import run

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
