"""The service's HTTP interface, without what runs it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Sequence
from typing import TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse

from jobs.gate import Gate
from pipelines.admission import Admission
from pipelines.config import JobConfig
from pipelines.errors import BusyError, RequestError, RowError
from pipelines.protocols import huggingface
from pipelines.service import Service

RETRY_S = 1  # after which a client that was sent away may come again
CLOSED = 499  # a client that has hung up; the status that proxies log for it

log = logging.getLogger("dray")
T = TypeVar("T")


class Gone(Exception):
    """The client has hung up."""


def make_app(service: Service, config: JobConfig, name: str, keys: Sequence[str] = ()) -> FastAPI:
    """The app of one model.

    Args:
        service: answers.
        config: its `serve` section sets the limits.
        name: by which clients call the model.
        keys: one of which a client must have; with none, everybody is let in.
    """
    app = FastAPI(title=f"dray: {name}", description=f"{service.task.name} with {name}")
    admission = Admission(tuple(config.serve.urls), config.serve.max_bytes)
    app.add_middleware(Gate, keys=keys)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RowError, _refused)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(Gone, _gone)
    app.add_exception_handler(Exception, _failed)

    @app.get("/healthz")
    async def healthz() -> dict[str, object]:
        """Whether the model is loaded: nothing answers before."""
        return {"status": "ok", "model": name, "task": service.task.name, "under_way": service.under_way}

    @app.post("/")
    async def infer(request: Request) -> Response:
        """Hugging Face's inference protocol: {"inputs": ..., "parameters": {...}}, or a medium as it is."""
        body = await _body(request, config.serve.max_bytes)
        asked = await huggingface.asked(service.task, body, request.headers.get("content-type", ""), admission)
        predictions = await _while_connected(request, asyncio.gather(*map(service.predict, asked.items)))
        content, kind = huggingface.answered(service.task, asked, predictions)
        return Response(content, media_type=kind)

    @app.post("/models/{model:path}")
    async def infer_by_name(model: str, request: Request) -> Response:
        """The same for the model of that name."""
        if model.removesuffix(f"/pipeline/{service.task.name}") != name:
            raise RequestError(f"no such model here: {model[:200]}; there is {name}", 404)
        return await infer(request)

    return app


async def _body(request: Request, most: int) -> bytes:
    """The body. Raises RequestError as soon as it is too large."""
    body = bytearray()
    async for block in request.stream():
        body += block
        if len(body) > most:
            raise RequestError(f"the request is larger than {most} bytes", 413)
    return bytes(body)


async def _while_connected(request: Request, work: Awaitable[T]) -> T:
    """What `work` gives; it is cancelled when the client hangs up, and then Gone is raised."""
    working, hanging_up = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({working, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Gone
        return working.result()
    finally:
        for task in (working, hanging_up):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, getattr(error, "status", 422))


async def _busy(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"{error}; come again later"}, 503, {"Retry-After": str(RETRY_S)})


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED)


async def _failed(request: Request, error: Exception) -> Response:
    """A fault of ours: the log has all of it, the client where to find it."""
    name = request.scope.get("state", {}).get("request_id")
    log.error("request %s failed", name, exc_info=error)
    return JSONResponse({"error": f"the service has failed; its log knows more of request {name}"}, 500)
