"""OpenAI's paths under /v1 for the service of one model."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.background import BackgroundTask
from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException

from dray.jobs.online.requests import TextStream, body_of, event, outcomes, replayed, taking
from dray.pipelines.errors import DrayError, RequestError
from dray.pipelines.media.admission import Admission
from dray.pipelines.online.service import Service
from dray.pipelines.phases.item import Item
from dray.pipelines.protocols import openai, openai_speech, openai_text, openai_vectors
from dray.pipelines.protocols.huggingface import parsed

FORM_FIELDS = 32
FORM = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": {"type": "string", "format": "binary"}, **openai.Transcribe.model_json_schema()["properties"]},
}


def add(app: FastAPI, service: Service, admission: Admission, name: str) -> None:
    """Adds the paths of the model's task to the app."""
    pipe, since = service.phases.pipe, time.time()

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The list of models, with the one model of the service."""
        return openai.models(name, since)

    if service.task.transcribes:
        _add_speech(app, service, admission, name)
    elif service.task.embeds:

        @app.post("/v1/embeddings", openapi_extra=taking(openai.Embed.model_json_schema()))
        async def embeddings(request: Request) -> Response:
            """A vector for each text."""
            body = openai.read(openai.Embed, parsed(await body_of(request, admission.max_bytes)), name)
            done = await outcomes(request, service, openai_vectors.embedding_items(pipe, body))
            tokens = round(sum(outcome.meter.elements for outcome in done))
            return JSONResponse(openai_vectors.embeddings(body, name, [outcome.prediction for outcome in done], tokens))

    elif "chat/completions" in service.task.endpoints:
        _add_text(app, service, admission, name)

    @app.api_route("/v1/{path:path}", methods=["GET", "POST"], include_in_schema=False)
    async def others(path: str) -> Response:
        raise RequestError(f"no /v1/{path[:100]} here: the task of {name} is {service.task.name}", 404)


def _add_speech(app: FastAPI, service: Service, admission: Admission, name: str) -> None:
    async def answer(request: Request, translate: bool) -> Response:
        sent, audio = await _form(request, admission.max_bytes)
        body = openai.read(openai.Transcribe, sent, name)
        settings: Any = service.config.parameters.get("generate_kwargs") or {}
        items = openai_speech.transcriptions(service.phases.pipe, body, audio, translate, settings)
        done = await outcomes(request, service, list(items.values()))
        predictions = {kind: outcome.prediction for kind, outcome in zip(items, done, strict=True)}
        content = openai_speech.transcript(body, predictions, done[0].meter.audio_seconds, translate)  # type: ignore[arg-type]
        return PlainTextResponse(content) if isinstance(content, str) else JSONResponse(content)

    @app.post("/v1/audio/transcriptions", openapi_extra=taking(FORM, "multipart/form-data"))
    async def transcriptions(request: Request) -> Response:
        """Speech as text: multipart form data with `file`, `model`, `response_format`, `timestamp_granularities[]` ..."""
        return await answer(request, translate=False)

    @app.post("/v1/audio/translations", openapi_extra=taking(FORM, "multipart/form-data"))
    async def translations(request: Request) -> Response:
        """Speech of any language as English text."""
        return await answer(request, translate=True)


def _add_text(app: FastAPI, service: Service, admission: Admission, name: str) -> None:
    pipe = service.phases.pipe

    @app.post("/v1/chat/completions", openapi_extra=taking(openai.Chat.model_json_schema()))
    async def chat(request: Request) -> Response:
        """The next message of a conversation."""
        body = openai.read(openai.Chat, parsed(await body_of(request, admission.max_bytes)), name)
        item = await openai_text.chat_item(body, admission)
        limit = service.phases.most_tokens(item)
        if body.stream:
            if body.n > 1:
                raise RequestError("n: one answer at a time is streamed")
            return await _streamed(request, service, name, item, body)
        (outcome,) = await outcomes(request, service, [item])
        choices = openai_text.choices_of_chat(pipe, body, outcome.prediction, limit)  # type: ignore[arg-type]
        return JSONResponse(openai_text.chat_answer(name, choices, round(outcome.meter.elements)))

    @app.post("/v1/completions", openapi_extra=taking(openai.Complete.model_json_schema()))
    async def completions(request: Request) -> Response:
        """The continuation of texts."""
        body = openai.read(openai.Complete, parsed(await body_of(request, admission.max_bytes)), name)
        items = openai_text.completion_items(body)
        limit = service.phases.most_tokens(items[0])
        if body.stream:
            if body.n > 1 or len(items) > 1:
                raise RequestError("n, prompt: one answer at a time is streamed")
            return await _streamed(request, service, name, items[0], body)
        done = await outcomes(request, service, items)
        choices = openai_text.choices_of_completion(pipe, body, items, [each.prediction for each in done], limit)
        return JSONResponse(openai_text.completion_answer(name, choices, round(sum(each.meter.elements for each in done))))


async def _streamed(request: Request, service: Service, name: str, item: Item, body: openai.Chat | openai.Complete) -> Response:
    """Generated text in OpenAI's events, as it comes."""
    pipe, limit = service.phases.pipe, service.phases.most_tokens(item)
    stream, answer = TextStream(service, item), openai_text.Answer(body.stops, limit, pipe)
    await stream.first_piece(request)
    pieces = openai_text.Pieces(name, is_chat=isinstance(body, openai.Chat))
    with_usage = bool((body.stream_options or {}).get("include_usage"))

    async def events() -> AsyncIterator[bytes]:
        try:
            for first in pieces.first():
                yield event(first)
            async for piece in stream.pieces():
                if shown := answer.add(piece):
                    yield event(pieces.piece(shown))
                if answer.has_stopped:
                    break
            if rest := answer.add("", is_last=True):
                yield event(pieces.piece(rest))
            tokens = 0 if answer.has_stopped else round((await stream.outcome()).meter.elements)
            for last in pieces.last(answer, tokens, with_usage):
                yield event(last)
            yield b"data: [DONE]\n\n"
        except DrayError as error:  # the answer has begun, so its status cannot change
            yield event({"error": {"message": str(error), "type": "server_error", "param": None, "code": None}})
        finally:
            stream.cancel()

    return StreamingResponse(events(), media_type="text/event-stream", background=BackgroundTask(stream.cancel))


async def _form(request: Request, most: int) -> tuple[dict[str, Any], bytes]:
    """(fields, content of `file`) of a multipart form. Raises RequestError if it cannot be read or has no file."""
    body = await body_of(request, most)
    try:
        form: FormData = await Request(request.scope, replayed(body, request.receive)).form(
            max_fields=FORM_FIELDS, max_part_size=most
        )
    except MultiPartException as error:
        raise RequestError(f"the form cannot be read: {error.message}") from None
    except Exception as error:  # starlette wraps the error if an app is in the scope
        raise RequestError(f"the form cannot be read: {getattr(error, 'detail', type(error).__name__)}") from None
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise RequestError("file: the recording is missing; send it as multipart form data")
        fields: dict[str, Any] = {key: value for key, value in form.items() if key != "file" and isinstance(value, str)}
        several = [value for key in ("timestamp_granularities[]", "timestamp_granularities") for value in form.getlist(key)]
        if several:
            fields["timestamp_granularities"] = several
        return fields, await file.read()
    finally:
        await form.close()
