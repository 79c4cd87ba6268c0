"""The HTTP interface of the service, as an app of FastAPI."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect

from dray.jobs.online import openai_routes, ui
from dray.jobs.online.middleware import OnAnswer, RequestGuard
from dray.jobs.online.requests import CancelledRequest, TextStream, body_of, event, outcomes, taking
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import BusyError, DrayError, LimitError, RequestError, RowError
from dray.pipelines.media.admission import Admission
from dray.pipelines.online.service import Service
from dray.pipelines.protocols import huggingface

RETRY_S = 1  # value of Retry-After for a client that was refused
TOO_MUCH = (LimitError.__name__, "OutOfMemoryError", "MemoryError")  # kinds of errors of items that are too large
CLOSED = 499  # status for a client that has closed the connection, as proxies log it

log = logging.getLogger("dray")


def make_app(
    service: Service,
    config: JobConfig,
    name: str,
    keys: Sequence[str] = (),
    on_answer: OnAnswer = lambda path, status, seconds: None,
) -> FastAPI:
    """The app of one model.

    Args:
        service: runs the model.
        config: the config, whose `serve` section sets the limits.
        name: the model's name for clients.
        keys: API keys; a client must send one of them, unless there are none.
        on_answer: called after every request with its route, status and seconds.
    """
    app = FastAPI(title=f"dray: {name}", description=f"{service.task.name} with {name}")
    admission = Admission(tuple(config.serve.urls), config.serve.max_bytes)
    app.add_middleware(RequestGuard, keys=keys, on_answer=on_answer, failed=_failed)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RowError, _refused)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(CancelledRequest, _cancelled)
    app.add_exception_handler(ClientDisconnect, _cancelled)
    _add_inference(app, service, admission, name)
    openai_routes.add(app, service, admission, name)
    ui.add(app, service, name, keys, config.serve.max_bytes)
    return app


def _add_inference(app: FastAPI, service: Service, admission: Admission, name: str) -> None:
    """Adds the paths of Hugging Face's inference protocol."""

    @app.get("/healthz")
    async def healthz() -> dict[str, object]:
        """The state of the service; it answers only once the model is loaded."""
        return {"status": "ok", "model": name, "task": service.task.name, "under_way": service.under_way}

    @app.post("/", openapi_extra=taking(huggingface.SCHEMA))
    async def infer(request: Request) -> Response:
        """Hugging Face's inference protocol: {"inputs": ..., "parameters": {...}}, or the bytes of a media file."""
        body = await body_of(request, admission.max_bytes)
        inference = await huggingface.read_request(service.task, body, request.headers.get("content-type", ""), admission)
        if inference.stream:
            return await _streamed(request, service, inference)
        predictions = [outcome.prediction for outcome in await outcomes(request, service, inference.items)]
        content, kind = huggingface.answer_of(service.task, inference, predictions)
        return Response(content, media_type=kind)

    @app.post("/models/{model:path}", openapi_extra=taking(huggingface.SCHEMA))
    async def infer_by_name(model: str, request: Request) -> Response:
        """As `/`, for the model of that name."""
        if model.removesuffix(f"/pipeline/{service.task.name}") != name:
            raise RequestError(f"no such model here: {model[:200]}; there is {name}", 404)
        return await infer(request)


async def _streamed(request: Request, service: Service, inference: huggingface.InferenceRequest) -> Response:
    """Generated text for Hugging Face's client: an event for each piece, and one with the whole text at the end."""
    are_several = any(inference.items[0].options.get(name) not in (None, 1) for name in ("num_return_sequences", "num_beams"))
    if inference.is_list or are_several or "chat/completions" not in service.task.endpoints:
        raise RequestError("stream: one text is generated at a time, and one answer to it")
    stream = TextStream(service, inference.items[0])
    await stream.first_piece(request)

    async def events() -> AsyncIterator[bytes]:
        whole = ""
        try:
            async for piece in stream.pieces():
                whole += piece
                yield event(huggingface.stream_event(piece, None))
            yield event(huggingface.stream_event("", whole))
        except DrayError as error:  # the answer has begun, so its status cannot change
            yield event({"error": str(error)})
        finally:
            stream.cancel()

    # If the client has left before the first event, the generator never starts and its `finally` does not run.
    return StreamingResponse(events(), media_type="text/event-stream", background=BackgroundTask(stream.cancel))


async def _refused(request: Request, error: Exception) -> Response:
    is_too_much = isinstance(error, RowError) and error.kind in TOO_MUCH
    return _error(request, str(error), 413 if is_too_much else getattr(error, "status", 422))


async def _busy(request: Request, error: Exception) -> Response:
    return _error(request, f"{error}; come again later", 503, {"Retry-After": str(RETRY_S)})


def _error(request: Request, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    """The answer to a failed request, in the form of the path's protocol."""
    if not request.url.path.startswith("/v1/"):
        return JSONResponse({"error": message}, status, headers)
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return JSONResponse({"error": {"message": message, "type": kind, "param": None, "code": None}}, status, headers)


async def _cancelled(request: Request, error: Exception) -> Response:
    return Response(status_code=CLOSED)


async def _failed(request: Request, error: Exception) -> Response:
    """The answer to an unexpected error, which goes to the log; the client gets the request's name."""
    name = request.scope.get("state", {}).get("request_id")
    log.error("request %s failed", name, exc_info=error)
    return _error(request, f"the service has failed; its log knows more of request {name}", 500)
