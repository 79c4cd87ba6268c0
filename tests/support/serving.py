"""A running service, with Ray and without, and clients that ask much of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import aiohttp
import uvicorn
import yaml

from dray.jobs.online.app import make_app
from dray.pipelines.config import parse_config
from dray.pipelines.online.service import Service
from support.places import ROOT, free_port


class Served:
    """A `dray serve` process on the cluster at an address, or with a Ray of its own ("local"); `url` answers."""

    def __init__(self, folder: Path, address: str, task: str, model: str, keys: str = "", **sections: dict) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        sections["serve"] = {**sections.get("serve", {}), "port": port}
        self.config = folder / "serve.yaml"
        raw = {"task": task, "model": model, "input": {"path": "-"}, "output": {"path": "-"}, **sections}
        self.config.write_text(yaml.safe_dump(raw))
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "dray.jobs.cli", "serve", str(self.config)], cwd=ROOT, text=True,
            stdout=subprocess.PIPE,
            env={**os.environ, "RAY_ADDRESS": address, **({"DRAY_API_KEYS": keys} if keys else {})},
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.said = ""
        self.wait_for("serving")

    def wait_for(self, words: str, seconds: float = 180) -> None:
        """Until the command has said that."""
        deadline = time.monotonic() + seconds
        while words not in self.said and self.process.poll() is None and time.monotonic() < deadline:
            self.said += self.process.stdout.readline()
        assert words in self.said, self.said

    def stop(self, signal_: int = signal.SIGINT) -> str:
        """What it says as it ends."""
        self.process.send_signal(signal_)
        rest, _ = self.process.communicate(timeout=180)
        assert self.process.returncode == 0, rest
        assert "Traceback" not in rest
        return rest


@contextlib.contextmanager
def listening(task: str, model: str, keys: Sequence[str] = (), **parameters: object) -> Iterator[str]:
    """The URL of a service in this process, without Ray."""
    raw = {"task": task, "model": model, "parameters": parameters, "input": {"path": "-"}, "output": {"path": "-"}}
    config, port = parse_config(raw), free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(Service(config), config, "tiny", keys), port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.1)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


async def ask(session: aiohttp.ClientSession, url: str, text: str, tries: int = 1) -> tuple[int, object, float]:
    """(status, content, seconds) of the answer to a text; 0 where the connection broke. Tries again what may be tried again."""
    status, content, started = 0, None, time.perf_counter()
    for number in range(tries):
        try:
            async with session.post(url, json={"inputs": text}) as answer:
                status, content = answer.status, await answer.json()
                if status < 500:
                    break
        except (aiohttp.ClientError, TimeoutError) as error:
            status, content = 0, repr(error)
        await asyncio.sleep(0.2 * (number + 1))
    return status, content, time.perf_counter() - started


def ask_all(url: str, texts: Sequence[str], at_once: int = 64, tries: int = 1) -> list[tuple[int, object, float]]:
    """The answers to all texts, so many asked at a time."""

    async def run() -> list[tuple[int, object, float]]:
        gate = asyncio.Semaphore(at_once)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(120)) as session:

            async def one(text: str) -> tuple[int, object, float]:
                async with gate:
                    return await ask(session, url, text, tries)

            return await asyncio.gather(*map(one, texts))

    return asyncio.run(run())
