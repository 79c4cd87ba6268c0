"""Files that are rows: recordings and pictures, by folder, glob and link."""

import zipfile
from pathlib import Path

import pytest
from support.reading import NONE, SPEECH, opened, packed, rows, touch

from dray.jobs.batch.datasource import READ_ROWS, RowsDatasource, first_rows, pieces, tables
from dray.jobs.columns import ARGUMENT, ID, KEEP, KEY, SOURCE
from dray.jobs.keys import first_key
from dray.pipelines.errors import InputError


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
