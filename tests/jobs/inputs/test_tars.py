"""Tars of samples: which members are a row, and which column is which."""

import tarfile

import pytest
from support.reading import IMAGE, NONE, SPEECH, TEXT, cells, opened, rows, tar

from dray.jobs.batch.datasource import pieces, tables
from dray.jobs.columns import ARGUMENT, ID, KEEP
from dray.pipelines.errors import InputError

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
    monkeypatch.setattr("dray.jobs.inputs.formats.tars.READ_BYTES", 10_000)
    monkeypatch.setattr("dray.jobs.batch.datasource.READ_BYTES", 10_000)
    data = opened(tar(tmp_path / "a.tar", {f"{n}.wav": bytes(3000) for n in range(20)}), SPEECH)
    read = list(tables(data.filesystem, pieces(data, NONE), data.columns, NONE))
    assert sum(table.num_rows for table in read) == 20
    assert len(read) == 5
