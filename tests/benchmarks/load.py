"""`make bench`: the service under load, beside a FastAPI server that calls the pipeline for each request. Prints Markdown."""

from __future__ import annotations

import asyncio
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp
import numpy as np
import torch
import yaml
from support import builders
from support.places import ROOT, free_port
from workloads import HIDDEN, LAYERS, ctc_model, flac

CLIENTS, REQUESTS, LONG_SHARE = 64, 1500, 0.1
SHORT, LONG = (5, 20), (300, 480)  # words
ROUNDS = 2  # in turns
ALONE = 100  # requests of one client
TURN, PAUSE_S, SETTLE_S = 10, 0.02, 0.5  # of them
CLIP_S, LONG_S, CLIP_CLIENTS, CLIPS = (2.0, 6.0), 600.0, 4, 150

PLAIN = """
import sys, torch, uvicorn
from fastapi import FastAPI, Request
from transformers import pipeline
torch.set_num_threads(2)
pipe = pipeline("text-classification", model=sys.argv[1], dtype="float32")
app = FastAPI()
@app.post("/")
def infer(body: dict):
    return pipe(body["inputs"])
@app.get("/healthz")
def healthz():
    return {}
uvicorn.run(app, port=int(sys.argv[2]), log_level="error")
"""


class Server:
    """A server process; `url` answers when this is made."""

    def __init__(self, command: Sequence[str], port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        deadline = time.monotonic() + 180
        while not asyncio.run(self._is_ready()):
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.5)

    async def _is_ready(self) -> bool:
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{self.url}/healthz") as answer:
                return answer.status == 200
        except aiohttp.ClientError:
            return False

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=120)


def dray(folder: Path, task: str, model: str, parameters: dict | None = None) -> Server:
    port = free_port()
    raw = {
        "task": task, "model": model, "parameters": parameters or {}, "serve": {"port": port}, "input": {"path": "-"},
        "output": {"path": "-"}, "engine": {"dtype": "float32"},
    }  # fmt: skip
    (folder / "serve.yaml").write_text(yaml.safe_dump(raw))
    os.environ["RAY_ADDRESS"] = "local"
    return Server([sys.executable, "-m", "dray.jobs.cli", "serve", str(folder / "serve.yaml")], port)


def plain(model: str) -> Server:
    port = free_port()
    return Server([sys.executable, "-c", PLAIN, model, str(port)], port)


Ask = Callable[[aiohttp.ClientSession, str, object], object]


async def text(session: aiohttp.ClientSession, url: str, item: object) -> int:
    async with session.post(url, json={"inputs": item}) as answer:
        await answer.read()
        return answer.status


async def clip(session: aiohttp.ClientSession, url: str, item: object) -> int:
    async with session.post(url, data=item, headers={"Content-Type": "audio/flac"}) as answer:
        await answer.read()
        return answer.status


async def _asked(url: str, items: Sequence[object], clients: int, ask: Ask) -> tuple[list[tuple[int, float]], float]:
    waiting = list(enumerate(items))[::-1]
    found: list[tuple[int, float]] = [(0, 0.0)] * len(items)
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(600), connector=aiohttp.TCPConnector(limit=clients)
    ) as session:

        async def client() -> None:
            while waiting:
                index, item = waiting.pop()
                started = time.perf_counter()
                status = await ask(session, url, item)
                found[index] = status, time.perf_counter() - started

        started = time.perf_counter()
        await asyncio.gather(*(client() for _ in range(clients)))
    return found, time.perf_counter() - started


def asked(url: str, items: Sequence[object], clients: int, ask: Ask = text) -> tuple[list[tuple[int, float]], float]:
    """(status, seconds) of each request, and the seconds of all, asked by so many clients at once."""
    return asyncio.run(_asked(url, items, clients, ask))


def crowd(folder: Path, model: str) -> None:
    """64 clients, short texts and long ones."""
    rng = np.random.default_rng(0)
    lengths = [int(rng.integers(*(LONG if rng.random() < LONG_SHARE else SHORT))) for _ in range(REQUESTS)]
    texts = [builders.text(rng, words) for words in lengths]
    servers = {"dray serve": dray(folder, "text-classification", model), "FastAPI, one call of the pipeline each": plain(model)}
    rates: dict[str, list[float]] = {name: [] for name in servers}
    short: dict[str, list[float]] = {name: [] for name in servers}
    long: dict[str, list[float]] = {name: [] for name in servers}
    errors = dict.fromkeys(servers, 0)
    for server in servers.values():
        asked(server.url, texts[:50], 8)  # warm
    for _ in range(ROUNDS):
        for name, server in servers.items():
            found, seconds = asked(server.url, texts, CLIENTS)
            rates[name].append(len(texts) / seconds)
            errors[name] += sum(status != 200 for status, _ in found)
            for words, (_, took) in zip(lengths, found, strict=True):
                (short if words < LONG[0] else long)[name].append(took)
    print(f"{CLIENTS} clients, {REQUESTS} texts in each of {ROUNDS} turns, {LONG_SHARE:.0%} of them of 300 to 480 words.\n")
    print("| | requests per second | p50, short texts | p99, short texts | p50, long texts | errors |")
    print("|---|---|---|---|---|---|")
    ours, theirs = servers
    base = [statistics.mean(rates[theirs]), *_quantiles(short[theirs]), statistics.median(long[theirs])]
    for name in servers:
        figures = [statistics.mean(rates[name]), *_quantiles(short[name]), statistics.median(long[name])]
        shares = [figure / other for figure, other in zip(figures, base, strict=True)]
        print(f"| {name} | " + " | ".join(f"{share:.2f}" for share in shares) + f" | {errors[name]} |")
    alone(servers[ours], model, [each for each, words in zip(texts, lengths, strict=True) if words < LONG[0]][:ALONE])
    for server in servers.values():
        server.stop()


def _quantiles(seconds: Sequence[float]) -> tuple[float, float]:
    return statistics.median(seconds), float(np.quantile(seconds, 0.99))


def alone(server: Server, model: str, texts: Sequence[str]) -> None:
    """What HTTP, routing and batching add to the bare forward, for one client.

    In turns of several texts, with pauses: torch's threads spin for a while after a forward, and keep the service from a core.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(2)
    tokenizer, bare = AutoTokenizer.from_pretrained(model), AutoModelForSequenceClassification.from_pretrained(model).eval()

    def forward(each: str) -> float:
        inputs = tokenizer(each, return_tensors="pt")
        started = time.perf_counter()
        with torch.inference_mode():
            bare(**inputs)
        return time.perf_counter() - started

    async def added() -> list[float]:
        found = []
        async with aiohttp.ClientSession() as session:
            for start in range(0, len(texts), TURN):
                some = texts[start : start + TURN]
                least = []
                for each in some:
                    least.append(forward(each))
                    await asyncio.sleep(PAUSE_S)
                await asyncio.sleep(SETTLE_S)
                for each, shortest in zip(some, least, strict=True):
                    started = time.perf_counter()
                    assert await text(session, server.url, each) == 200
                    found.append(time.perf_counter() - started - shortest)
                    await asyncio.sleep(PAUSE_S)
        return found

    milliseconds = 1000 * statistics.median(asyncio.run(added()))
    print(f"\nOne client at a time, {len(texts)} short texts: {milliseconds:.1f} ms (median) more than the bare forward.")


def recordings(folder: Path) -> None:
    """Short clips while a long recording is transcribed."""
    server = dray(folder, "automatic-speech-recognition", ctc_model(folder / "ctc"), {"chunk_length_s": 20})
    rng = np.random.default_rng(1)
    clips = [flac(builders.sound(float(rng.uniform(*CLIP_S)), seed)) for seed in range(CLIPS)]
    long = flac(builders.sound(LONG_S, 999))

    async def both() -> tuple[list[tuple[int, float]], bool]:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(600)) as session:
            whole = asyncio.ensure_future(clip(session, server.url, long))
            await asyncio.sleep(0.2)
            found, _ = await _asked(server.url, clips, CLIP_CLIENTS, clip)
            was_running = not whole.done()
            assert await whole == 200
            return found, was_running

    asked(server.url, clips[:20], CLIP_CLIENTS, clip)  # warm
    without, _ = asked(server.url, clips, CLIP_CLIENTS, clip)
    beside, was_running = asyncio.run(both())
    assert {status for status, _ in [*without, *beside]} == {200}
    seconds = [[took for _, took in found] for found in (without, beside)]
    p50, p99 = (np.quantile(seconds[1], share) / np.quantile(seconds[0], share) for share in (0.5, 0.99))
    state = "still" if was_running else "no longer"
    print(f"\n{CLIPS} clips of 2 to 6 s from {CLIP_CLIENTS} clients (CTC) beside a recording of {LONG_S / 60:.0f} minutes:")
    print(
        f"p50 {p50:.2f} times, p99 {p99:.2f} times what they are without it, which was {state} running at the last clip's end."
    )
    server.stop()


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crowd(folder, builders.text_classifier(folder / "model", LAYERS, HIDDEN))
        recordings(folder)


if __name__ == "__main__":
    main()
