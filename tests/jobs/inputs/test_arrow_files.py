"""Arrow files, and datasets as `datasets` saves them."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pytest
from support.reading import NONE, SPEECH, cells, opened, rows, touch

from dray.jobs.batch.datasource import pieces, tables
from dray.jobs.columns import ARGUMENT, ID, KEEP
from dray.pipelines.errors import InputError


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
    monkeypatch.setattr("dray.jobs.inputs.formats.streams.READ_BYTES", 200)
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
