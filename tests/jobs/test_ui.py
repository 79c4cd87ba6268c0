"""The page at /ui, used as people use it: in a browser."""

import threading
import time
import urllib.request

import browser
import builders
import pytest
import soundfile
import tiny_vision
import uvicorn
from conftest import free_port

from jobs.api import make_app
from pipelines.config import parse_config
from pipelines.service import Service

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium here")
pytest.importorskip("gradio")


@pytest.fixture
def serve():
    servers = []

    def start(task: str, model: str, keys: tuple[str, ...] = (), **parameters: object) -> str:
        raw = {"task": task, "model": model, "parameters": parameters, "input": {"path": "-"}, "output": {"path": "-"}}
        config, port = parse_config(raw), free_port()
        server = uvicorn.Server(uvicorn.Config(make_app(Service(config), config, "tiny", keys), port=port, log_level="error"))
        servers.append((server, threading.Thread(target=server.run)))
        servers[-1][1].start()
        deadline = time.monotonic() + 60
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.1)
        return f"http://127.0.0.1:{port}/ui"

    yield start
    for server, thread in servers:
        server.should_exit = True
        thread.join()


def test_labels_with_bars(serve, models, tmp_path):
    async def look(page: browser.Page) -> None:
        await page.until("document.querySelector('textarea')")
        await page.type("textarea", "the people who made this")
        await page.run("document.querySelector('#run').click()")
        text = await page.until("document.querySelector('#found')?.innerText.includes('%') && document.body.innerText")
        assert "text-classification" in text
        assert {"good", "bad", "ugly"} & set(text.split())
        await page.screenshot(tmp_path / "labels.png")

    browser.visit(serve("text-classification", models.text_classifier, top_k=3), look)
    assert (tmp_path / "labels.png").stat().st_size > 10_000


def test_speech_with_a_player_and_subtitles(serve, models, tmp_path):
    soundfile.write(tmp_path / "spoken.wav", builders.sound(3.0), builders.RATE)
    links: list[str] = []

    async def look(page: browser.Page) -> None:
        await page.until("document.querySelector('input[type=file]')")
        await page.drop("input[type=file]", tmp_path / "spoken.wav")
        await page.until("document.querySelector('audio, .waveform-container, [data-testid*=waveform]')")
        await page.run("document.querySelector('#run').click()")
        await page.until("document.querySelector('#text textarea')?.value.length > 0")
        await page.until("document.querySelector('#times')?.innerText.match(/[0-9][.][0-9]/)")
        found = await page.until("[...document.querySelectorAll('#subtitles a')].map(link => link.href).join(' ')")
        links.extend(str(found).split())
        await page.screenshot(tmp_path / "speech.png")
        contents = [urllib.request.urlopen(link).read().decode() for link in links]
        assert any("-->" in content for content in contents)
        assert any(content.startswith("WEBVTT") for content in contents)

    browser.visit(serve("automatic-speech-recognition", models.ctc, chunk_length_s=20), look)
    assert (tmp_path / "speech.png").stat().st_size > 10_000


def test_boxes_drawn_on_the_picture(serve, tmp_path):
    tiny_vision.picture(320, 240).save(tmp_path / "picture.png")

    async def look(page: browser.Page) -> None:
        await page.until("document.querySelector('input[type=file]')")
        await page.drop("input[type=file]", tmp_path / "picture.png")
        await page.until("document.querySelector('img')")
        await page.run("document.querySelector('#run').click()")
        drawn = "(pictures => pictures.length > 1 && pictures.every(each => each.naturalWidth > 0))"
        await page.until(f"{drawn}([...document.querySelectorAll('#found img')])")
        await page.screenshot(tmp_path / "boxes.png")

    browser.visit(serve("object-detection", tiny_vision.detr(tmp_path / "detr"), threshold=0.0), look)
    assert (tmp_path / "boxes.png").stat().st_size > 10_000


def test_with_keys_the_page_asks_for_one(serve, models):
    async def look(page: browser.Page) -> None:
        await page.until("document.querySelectorAll('input').length >= 2")
        assert "the password is an API key" in str(await page.run("document.body.innerText"))
        assert not await page.run("document.querySelector('#run')")

    browser.visit(serve("text-classification", models.text_classifier, keys=("letmein",)), look)
