"""The page at /ui, used as people use it: in a browser."""

import urllib.request

import browser
import builders
import pytest
import soundfile
import tiny_vision
from serving import listening

pytestmark = pytest.mark.skipif(browser.CHROMIUM is None, reason="there is no Chromium here")
pytest.importorskip("gradio")


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


def test_with_keys_the_page_asks_for_one(models):
    async def look(page: browser.Page) -> None:
        await page.until("document.querySelectorAll('input').length >= 2")
        assert "the password is an API key" in str(await page.run("document.body.innerText"))
        assert not await page.run("document.querySelector('#run')")

    with listening("text-classification", models.text_classifier, keys=("letmein",)) as url:
        browser.visit(f"{url}/ui", look)
