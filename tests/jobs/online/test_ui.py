"""The page at /ui, used as people use it: in a browser."""

import tempfile
import urllib.request
from pathlib import Path

import pytest
import requests
import soundfile
from support import browser, builders, tiny_vision
from support.serving import listening

in_browser = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium here")
pytest.importorskip("gradio")


@in_browser
def test_labels_with_bars(models, tmp_path):
    async def look(page: browser.Page) -> None:
        await page.until("document.querySelector('textarea')")
        await page.type("textarea", "the people who made this")
        await page.run("document.querySelector('#run').click()")
        text = await page.until("document.querySelector('#found')?.innerText.includes('%') && document.body.innerText")
        assert "text-classification" in text
        assert {"good", "bad", "ugly"} & set(text.split())
        await page.screenshot(tmp_path / "labels.png")

    with listening("text-classification", models.text_classifier, top_k=3) as url:
        browser.visit(f"{url}/ui", look)
    assert (tmp_path / "labels.png").stat().st_size > 10_000


@in_browser
def test_speech_with_a_player_and_subtitles(models, tmp_path):
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

    with listening("automatic-speech-recognition", models.ctc, chunk_length_s=20) as url:
        browser.visit(f"{url}/ui", look)
    assert (tmp_path / "speech.png").stat().st_size > 10_000


@in_browser
def test_boxes_drawn_on_the_picture(tmp_path):
    tiny_vision.picture(320, 240).save(tmp_path / "picture.png")

    async def look(page: browser.Page) -> None:
        await page.until("document.querySelector('input[type=file]')")
        await page.drop("input[type=file]", tmp_path / "picture.png")
        await page.until("document.querySelector('img')")
        await page.run("document.querySelector('#run').click()")
        drawn = "(pictures => pictures.length > 1 && pictures.every(each => each.naturalWidth > 0))"
        await page.until(f"{drawn}([...document.querySelectorAll('#found img')])")
        await page.screenshot(tmp_path / "boxes.png")

    with listening("object-detection", tiny_vision.detr(tmp_path / "detr"), threshold=0.0) as url:
        browser.visit(f"{url}/ui", look)
    assert (tmp_path / "boxes.png").stat().st_size > 10_000


@in_browser
def test_with_keys_the_page_asks_for_one(models):
    async def look(page: browser.Page) -> None:
        await page.until("document.querySelectorAll('input').length >= 2")
        assert "the password is an API key" in str(await page.run("document.body.innerText"))
        assert not await page.run("document.querySelector('#run')")

    with listening("text-classification", models.text_classifier, keys=("letmein",)) as url:
        browser.visit(f"{url}/ui", look)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "/dev/zero", "https://example.org/a", "file:///etc/passwd", "{uploads}/../../etc/passwd"]
)
def test_the_page_opens_nothing_that_was_not_sent_to_it(models, path):
    path = path.format(uploads=Path(tempfile.gettempdir()) / "gradio")
    with listening("text-classification", models.text_classifier) as url:
        for sent in ({"path": path, "meta": {"_type": "gradio.FileData"}}, {"a": [{"path": path}]}):
            body = {"data": [sent], "fn_index": 0, "session_hash": "x"}
            answer = requests.post(f"{url}/ui/gradio_api/run/predict", json=body, timeout=20)
            assert answer.status_code == 422
        shown = requests.get(f"{url}/ui/gradio_api/file={path}", timeout=20)
        assert shown.status_code in (403, 404)
        assert "root:" not in shown.text


def test_what_is_sent_to_the_page_is_bounded(models):
    with listening("text-classification", models.text_classifier, keys=("letmein",)) as url:
        assert requests.post(f"{url}/ui/login", data=bytes(2 << 20), timeout=20).status_code == 413
        assert requests.get(f"{url}/ui/config", timeout=20).status_code in (401, 403)
