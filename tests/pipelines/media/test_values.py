"""Cells of every kind as media; URLs fetched in parallel, tried again, bounded."""

import base64
import http.server
import io
import os
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from PIL import Image

from dray.pipelines.errors import RowError
from dray.pipelines.media import fetch, values
from dray.pipelines.media.opening import MediaOptions

SOURCE = MediaOptions()
PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)


def png(pixels=PIXELS):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def server():
    """Serves PNG at any path; /slow after a moment, /flaky fails twice, /gone and /secret never work."""

    class Handler(http.server.BaseHTTPRequestHandler):
        seen, at_once, most = [], 0, 0

        def do_GET(self):
            name = self.path.lstrip("/").split("?")[0]
            status = {"gone": 404, "secret": 403, "broken": 500}.get(name, 200)
            if self.command == "GET":
                Handler.seen.append(name)
                if name == "flaky" and Handler.seen.count("flaky") < 3:
                    status = 503
            Handler.at_once += 1
            Handler.most = max(Handler.most, Handler.at_once)
            if name == "slow":
                time.sleep(0.2)
            body = png() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)
            Handler.at_once -= 1

        do_HEAD = do_GET

        def log_message(self, *arguments):
            pass

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", Handler
    running.shutdown()


def test_images_from_every_kind_of_cell(tmp_path, server):
    path = tmp_path / "one.png"
    path.write_bytes(png())
    encoded = base64.b64encode(png()).decode()
    url, _ = server
    (reader,) = pa.array([png()])
    kinds = [
        png(), memoryview(png()), reader.as_buffer(), str(path), f"file://{path}", encoded, f"data:image/png;base64,{encoded}",
        f"{url}/any.png", {"bytes": png(), "path": None}, {"bytes": None, "path": str(path)},
        {"bytes": None, "path": f"{url}/any"}, PIXELS, PIXELS.tolist(), Image.fromarray(PIXELS), io.BytesIO(png()),
    ]  # fmt: skip
    for cell in kinds:
        assert np.array_equal(np.asarray(values.image(cell, SOURCE)), PIXELS), type(cell)


@pytest.mark.parametrize(("kind", "options"), [("WEBP", {"lossless": True}), ("TIFF", {}), ("BMP", {})])
def test_images_of_every_format_in_arrow_buffers(kind, options):
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, kind, **options)
    (scalar,) = pa.array([file.getvalue()])
    assert np.array_equal(np.asarray(values.image(scalar.as_buffer(), SOURCE)), PIXELS)


@pytest.mark.parametrize("array", [PIXELS / 255, PIXELS.astype(int) - 300])
def test_arrays_that_are_no_bytes_are_refused(array):
    with pytest.raises(ValueError, match="whole numbers from 0 to 255"):
        values.image(array, SOURCE)


def test_recordings_from_every_kind_of_cell(tmp_path):
    wave = np.sin(np.arange(8000) / 9).astype(np.float32)
    soundfile.write(tmp_path / "one.flac", wave, 8000, subtype="PCM_24")
    content = (tmp_path / "one.flac").read_bytes()
    source = MediaOptions(rate=8000)
    kinds = [content, base64.b64encode(content).decode(), str(tmp_path / "one.flac"), {"array": wave, "sampling_rate": 8000}]
    for cell in kinds:
        np.testing.assert_allclose(values.samples(cell, source), wave, atol=1e-6)


@pytest.mark.parametrize(
    ("cell", "kind", "message"),
    [
        (b"not an image", ValueError, "not an image that Pillow can read"),
        (png()[:90], ValueError, "damaged"),
        ("nowhere/at/all.png", FileNotFoundError, "no such file, and neither a URL nor base64: nowhere/at/all.png"),
        (None, ValueError, "the cell is empty"),
        (3.5, ValueError, "expected media as bytes, path, URL or array, got float"),
    ],
)
def test_what_is_no_image_is_said(cell, kind, message):
    with pytest.raises(kind, match=message):
        values.image(cell, SOURCE)


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="too large"):
        values.image(png(), SOURCE)


def test_urls_are_fetched_in_parallel_and_in_order(server):
    url, handler = server
    started = time.monotonic()
    names = [f"{url}/slow?{index}" for index in range(12)]
    got = list(fetch.ahead(names, lambda name: (name, fetch.fetch(name, {}, 1 << 20).read())))
    assert [name for name, _ in got] == names
    assert {content for _, content in got} == {png()}
    assert handler.most > 3
    assert time.monotonic() - started < 12 * 0.2 * 2


def test_what_may_pass_is_tried_again_and_what_will_not_is_not(server, monkeypatch):
    monkeypatch.setattr(fetch, "FIRST_PAUSE", 0.01)
    url, handler = server
    assert fetch.fetch(f"{url}/flaky", {}, 1 << 20).read() == png()
    for name, tries, said in (("gone", 1, "404"), ("secret", 1, "403"), ("broken", 4, "after 4 attempts")):
        with pytest.raises(RowError, match=said) as failure:
            fetch.fetch(f"{url}/{name}", {}, 1 << 20)
        assert failure.value.stage == "read"
        assert handler.seen.count(name) == tries
    with pytest.raises(RowError, match=r"unknown protocol|not known|Protocol"):
        fetch.fetch("nope://x/y", {}, 10)


def test_a_download_is_bounded(server):
    with pytest.raises(RowError, match=r"larger than input.max_media_bytes = 100$"):
        fetch.fetch(f"{server[0]}/any", {}, 100)


def test_storage_options_are_for_object_stores_only(server):
    assert fetch.fetch(f"{server[0]}/any", {"endpoint_url": "http://elsewhere"}, 1 << 20).read() == png()


def test_tables_from_columns_records_and_json():
    columns = {"who": ["a", "b"], "much": [1, None]}
    records = [{"who": "a", "much": 1}, {"who": "b", "much": None}]
    for cell in (columns, records, '{"who": ["a", "b"], "much": [1, null]}'):
        table = values.table(cell, SOURCE)
        assert list(table.columns) == ["who", "much"]
        assert [str(value) for value in table["who"]] == ["a", "b"]
        assert str(table["much"][0]).startswith("1")
    with pytest.raises(ValueError, match="expected a table"):
        values.table(4, SOURCE)


def test_chats_without_nulls_and_with_their_media():
    chat = [
        {"role": "system", "content": "be brief", "name": None},
        {"role": "user", "content": [{"type": "image", "image": png(), "text": None}, {"type": "text", "text": "what?"}]},
    ]
    system, user = values.chat(chat, SOURCE)
    assert system == {"role": "system", "content": "be brief"}
    assert user["content"][1] == {"type": "text", "text": "what?"}
    assert np.array_equal(np.asarray(user["content"][0]["image"]), PIXELS)
    assert values.chat("a prompt", SOURCE) == "a prompt"


def test_a_video_is_a_path_for_as_long_as_it_is_used(tmp_path):
    (tmp_path / "film.mp4").write_bytes(b"film")
    assert values.video(str(tmp_path / "film.mp4"), SOURCE) == str(tmp_path / "film.mp4")
    path = values.video({"bytes": b"film", "path": None}, SOURCE)
    name = str(path[:])
    with open(name, "rb") as file:
        assert file.read() == b"film"
    del path
    assert not os.path.exists(name)
