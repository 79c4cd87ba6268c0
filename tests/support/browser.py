"""Headless Chromium, driven by its own protocol: a page is opened, filled in, looked at."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SIZE = 1200, 900


class Page:
    """An open page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def send(self, method: str, **parameters: object) -> dict:
        """The answer to a command of the DevTools protocol."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    async def run(self, script: str) -> object:
        """The value of a JavaScript expression."""
        found = await self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def until(self, script: str, seconds: float = 60) -> object:
        """The value of an expression as soon as it is true; of an element that it is there."""
        script = f"(found => found instanceof Node || found)({script})"
        deadline = time.monotonic() + seconds
        while not (value := await self.run(script)):
            assert time.monotonic() < deadline, f"{script} is not true: {await self.run('document.body.innerText')}"
            await asyncio.sleep(0.2)
        return value

    async def type(self, selector: str, text: str) -> None:
        """Types into a field, as a person does."""
        await self.run(f"document.querySelector({selector!r}).focus()")
        await self.send("Input.insertText", text=text)

    async def drop(self, selector: str, file: Path) -> None:
        """Gives a file to a field."""
        root = await self.send("DOM.getDocument")
        node = await self.send("DOM.querySelector", nodeId=root["root"]["nodeId"], selector=selector)
        await self.send("DOM.setFileInputFiles", nodeId=node["nodeId"], files=[str(file)])

    async def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        found = await self.send("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


def visit(url: str, do: Callable[[Page], Awaitable[None]]) -> None:
    """Opens a page, and does with it what there is to be done."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
                f"--user-data-dir={profile}", f"--window-size={SIZE[0]},{SIZE[1]}", url,
            ],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        try:
            port = next(
                found[1] for line in process.stderr if (found := re.search(r"DevTools listening on ws://[^:]+:(\d+)", line))
            )
            asyncio.run(_with_page(int(port), url, do))
        finally:
            process.kill()
            process.wait()


async def _with_page(port: int, url: str, do: Callable[[Page], Awaitable[None]]) -> None:
    async with aiohttp.ClientSession() as session:
        deadline = time.monotonic() + 30
        while True:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                pages = [each for each in await answer.json(content_type=None) if each["type"] == "page"]
            if pages or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=1 << 28) as socket:
            await do(Page(socket))
