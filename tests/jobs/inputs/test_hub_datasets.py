"""Datasets of the hub, served by a stand-in."""

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from support.reading import SPEECH, opened, rows

from dray.jobs.columns import ARGUMENT, ID
from dray.pipelines.errors import InputError


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
