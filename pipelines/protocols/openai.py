"""OpenAI's protocol: the types of its requests.

Source: the request and response types of the `openai` package, and its API reference.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dray.pipelines.errors import RequestError
from dray.pipelines.protocols.huggingface import parsed

ANY_MODEL = ("", "default", "dummy", "tgi")  # model names that clients send to servers with one model
MOST_INPUTS = 2048  # texts in one request
MOST_CHOICES = 16


class _RequestBody(BaseModel):
    """The fields of all requests. Other fields are ignored."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str = ""
    user: str | None = None


class Transcribe(_RequestBody):
    """POST /v1/audio/transcriptions and /v1/audio/translations, without the file."""

    language: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float | None = Field(None, ge=0, le=2)
    timestamp_granularities: list[Literal["word", "segment"]] = ["segment"]
    prompt: str | None = None


class Embed(_RequestBody):
    """POST /v1/embeddings."""

    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


class Generate(_RequestBody):
    """The common fields of chats and completions."""

    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None

    @property
    def stops(self) -> list[str]:
        """The texts that end an answer."""
        return [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if text]


class Complete(Generate):
    """POST /v1/completions."""

    prompt: str | list[str]
    echo: bool = False
    max_tokens: int | None = Field(16, ge=1)


class Chat(Generate):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


R = TypeVar("R", bound=_RequestBody)


def line(text: str) -> dict[str, Any]:
    """The request in a line of a Batch file. Raises RequestError."""
    sent = parsed(text.encode())
    if not isinstance(sent, dict) or not isinstance(sent.get("body"), dict) or not isinstance(sent.get("url"), str):
        raise RequestError('expected {"custom_id": ..., "method": "POST", "url": "/v1/...", "body": {...}}')
    if sent.get("method", "POST") != "POST":
        raise RequestError("method: expected POST")
    return sent


def read(kind: type[R], sent: object, name: str | None = None) -> R:
    """The request of type `kind`. Raises RequestError if it is not valid, or for another model than `name`; None: any."""
    try:
        request = kind.model_validate(sent)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise RequestError(f"{where}: {detail['msg']}" if where else "the body must be an object") from None
    if name is not None and request.model not in (name, *ANY_MODEL):
        raise RequestError(f"no such model here: {request.model[:200]}; there is {name}", 404)
    return request


def models(name: str, since: float) -> dict[str, Any]:
    """The answer to GET /v1/models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": math.floor(since), "owned_by": "dray"}]}
