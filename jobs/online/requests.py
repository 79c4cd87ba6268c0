"""What the routes share: bodies of bounded size, work that is cancelled with its client, streams of text."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import Request
from starlette.types import Message, Receive

from dray.pipelines.engine.block import Outcome
from dray.pipelines.errors import RequestError
from dray.pipelines.online.service import Service
from dray.pipelines.phases.item import Item

T = TypeVar("T")
AT_ONCE = 64  # most items of one request that run at once


class CancelledRequest(Exception):
    """The client has closed the connection."""


def taking(schema: Mapping[str, Any], kind: str = "application/json") -> dict[str, Any]:
    """The entry in the OpenAPI document for a route that reads a body of that schema itself."""
    statuses = {"401": "no valid key", "413": "too large", "422": "not valid", "503": "too much to do; come again"}
    return {
        "requestBody": {"required": True, "content": {kind: {"schema": dict(schema)}}},
        "responses": {status: {"description": text} for status, text in statuses.items()},
    }


async def body_of(request: Request, most: int) -> bytes:
    """The body of a request. Raises RequestError as soon as it has more than `most` bytes."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > most:
            raise RequestError(f"the request is larger than {most} bytes", 413)
    return bytes(body)


def replayed(body: bytes, receive: Receive) -> Receive:
    """An ASGI `receive` that gives a body again which was already read, and then the messages after it."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def outcomes(request: Request, service: Service, items: Sequence[Item]) -> list[Outcome]:
    """The outcomes of a request's items. If one fails, or the client disconnects (CancelledRequest), the rest is cancelled."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(item: Item) -> Outcome:
        async with gate:
            return await service.outcome(item)

    works = [asyncio.ensure_future(one(item)) for item in items]
    try:
        return await while_connected(request, asyncio.gather(*works))
    finally:
        for work in works:
            work.cancel()


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`. Cancels it and raises CancelledRequest if the client disconnects."""
    working, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({working, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise CancelledRequest
        return working.result()
    finally:
        for task in (working, disconnect):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class TextStream:
    """The text of one item as it is generated."""

    def __init__(self, service: Service, item: Item) -> None:
        """Starts the work at once."""
        from dray.pipelines.batching.parts import TextCallback

        loop, self._pieces = asyncio.get_running_loop(), asyncio.Queue[str | None]()

        def on_text(piece: str) -> None:
            loop.call_soon_threadsafe(self._pieces.put_nowait, piece)

        self._on_text = TextCallback(on_text)
        self._work = asyncio.ensure_future(service.outcome(replace(item, on_text=self._on_text)))
        self._work.add_done_callback(lambda _: self._pieces.put_nowait(None))
        self._first: str | None = None

    async def first_piece(self, request: Request) -> None:
        """Returns when the first piece is there, or when the text has ended without one.

        Raises:
            CancelledRequest: the client has disconnected.
            Exception: an error of the model or its queue before the first piece.
        """
        try:
            self._first = await while_connected(request, self._pieces.get())
            if self._first is None:
                await self._work
        except BaseException:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[str]:
        """The pieces of the text. Raises the model's errors."""
        piece = self._first
        while piece is not None:
            yield piece
            piece = await self._pieces.get()
        await self._work

    async def outcome(self) -> Outcome:
        """The outcome of the item, when it is done."""
        return await self._work

    def cancel(self) -> None:
        """Stops the model's work on the item."""
        self._on_text.is_cancelled = True
        self._work.cancel()


def event(content: object) -> bytes:
    """The bytes of a server-sent event."""
    return b"data: " + json.dumps(content).encode() + b"\n\n"
