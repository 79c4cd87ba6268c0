"""A folder behind a faulty endpoint, and all that a job does with its storage."""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from dray.jobs.storage.folder import Folder
from support.faulty import KINDS, Proxy

TABLE = pa.table({"n": list(range(20_000)), "text": [f"row {n}" for n in range(20_000)]})


@contextmanager
def folder_behind(proxy: Proxy) -> Iterator[Folder]:
    """A folder with a Parquet file and five small ones, in a bucket that works until told otherwise."""
    proxy.faults.rate, proxy.faults.kinds, proxy.faults.only, proxy.faults.answers_lost = 0, KINDS, None, 0.5
    options = {"endpoint_url": proxy.url, "key": "testing", "secret": "testing", "use_listings_cache": False}
    bucket = f"calls-{uuid.uuid4().hex[:12]}"
    folder = Folder(f"s3://{bucket}/out", options)
    folder.fs.mkdir(bucket)
    folder.fs.pipe({f"{folder.path}/in/{n}/small": b"%d" % n for n in range(5)})
    pq.write_table(TABLE, f"{folder.path}/in/rows.parquet", filesystem=folder.arrow(), row_group_size=5_000)
    proxy.forget()
    yield folder
    proxy.faults.rate = 0


def commit(arrow: pafs.FileSystem, pending: str, committed: str):
    """As Ray Data's checkpoint writer does it."""
    kinds = [info.type for info in arrow.get_file_info([committed, pending])]
    assert kinds == [pafs.FileType.NotFound, pafs.FileType.File]
    arrow.move(pending, committed)


def use(folder: Folder) -> None:
    """All that a job does with its storage, with the right result."""
    arrow, path = folder.arrow(), folder.path
    small = [f"{path}/in/{n}/small" for n in range(5)]
    assert (folder / "in").files() == [*small, f"{path}/in/rows.parquet"]
    assert folder.fs.glob(f"{path}/in/*/small") == small
    assert folder.fs.exists(path.split("/")[0])
    fragment = pads.ParquetFileFormat().make_fragment(f"{path}/in/rows.parquet", arrow)
    assert pa.Table.from_batches(fragment.to_batches(batch_size=5_000)).equals(TABLE)
    for n in range(2):
        folder.write(f"state/{n}.json", json.dumps({"n": n}))
        assert json.loads(folder.read(f"state/{n}.json")) == {"n": n}
        assert folder.create(f"lease/{n}", f"run {n}")
        assert not folder.create(f"lease/{n}", "another run")
        assert folder.read(f"lease/{n}") == b"run %d" % n
        pq.write_table(TABLE[:10], f"{path}/check/{n}.pending.parquet", filesystem=arrow)
        commit(arrow, f"{path}/check/{n}.pending.parquet", f"{path}/check/{n}.parquet")
    assert folder.read("state/none.json") is None
    folder.fs.rm_file(f"{path}/check/1.parquet")
    assert (folder / "check").files() == [f"{path}/check/0.parquet"]
    assert pq.read_table(f"{path}/check/0.parquet", filesystem=arrow).num_rows == 10
    (folder / "state").remove()
    assert (folder / "state").files() == []
    (folder / "state").remove()


def operations(folder: Folder) -> dict:
    arrow, path = folder.arrow(), folder.path
    return {
        "files": folder.files,
        "glob": lambda: folder.fs.glob(f"{path}/in/*/small"),
        "bucket": lambda: folder.fs.exists(path.split("/")[0]),
        "read": lambda: folder.read("in/0/small"),
        "write": lambda: folder.write("new", b"1"),
        "create": lambda: folder.create("newer", "1"),
        "remove": (folder / "in").remove,
        "info": lambda: arrow.get_file_info(f"{path}/in/0/small"),
        "parquet": lambda: pq.read_table(f"{path}/in/rows.parquet", filesystem=arrow),
        "upload": lambda: pq.write_table(TABLE, f"{path}/new.parquet", filesystem=arrow),
        "move": lambda: arrow.move(f"{path}/in/0/small", f"{path}/in/0/moved"),
    }
