"""OpenAI's protocol: what its clients send as items, and predictions as what they read.

Source: the request and response types of the `openai` package, and its API reference.
"""

from __future__ import annotations

import base64
import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines import subtitles
from pipelines.admission import Admission
from pipelines.errors import RequestError
from pipelines.phases import Item
from pipelines.protocols.huggingface import message, parsed

if TYPE_CHECKING:
    from transformers import Pipeline

ANY_MODEL = ("", "default", "dummy", "tgi")  # names that clients send where they know of one model only
MOST_INPUTS = 2048  # texts in one request for embeddings
MOST_CHOICES = 16
WORDS_PER_SEGMENT = 6.0  # seconds, of models that give the times of words alone


class _Request(BaseModel):
    """What all requests have. Fields of OpenAI's that mean nothing here are taken and left alone."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    model: str = ""
    user: str | None = None


class Transcribe(_Request):
    """POST /v1/audio/transcriptions and /v1/audio/translations, beside the file."""

    language: str | None = None
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
    temperature: float | None = Field(None, ge=0, le=2)
    timestamp_granularities: list[Literal["word", "segment"]] = ["segment"]
    prompt: str | None = None


class Embed(_Request):
    """POST /v1/embeddings."""

    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1)


class _Generate(_Request):
    max_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int = Field(1, ge=1, le=MOST_CHOICES)
    stop: str | list[str] | None = None
    stream: bool = False
    stream_options: dict[str, Any] | None = None

    @property
    def stops(self) -> list[str]:
        """Texts that end an answer."""
        return [text for text in ([self.stop] if isinstance(self.stop, str) else self.stop or []) if text]


class Complete(_Generate):
    """POST /v1/completions."""

    prompt: str | list[str]
    echo: bool = False
    max_tokens: int | None = Field(16, ge=1)


class Chat(_Generate):
    """POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: list[Any] | None = None
    response_format: dict[str, Any] | None = None


R = TypeVar("R", bound=_Request)


def line(text: str) -> dict[str, Any]:
    """A line of a Batch file. Raises RequestError."""
    sent = parsed(text.encode())
    if not isinstance(sent, dict) or not isinstance(sent.get("body"), dict) or not isinstance(sent.get("url"), str):
        raise RequestError('expected {"custom_id": ..., "method": "POST", "url": "/v1/...", "body": {...}}')
    if sent.get("method", "POST") != "POST":
        raise RequestError("method: expected POST")
    return sent


def read(kind: type[R], sent: object, name: str | None = None) -> R:
    """A request of that kind for the model of that name; None: whichever it asks for. Raises RequestError."""
    try:
        request = kind.model_validate(sent)
    except ValidationError as error:
        detail = error.errors()[0]
        where = ".".join(str(part) for part in detail["loc"])
        raise RequestError(f"{where}: {detail['msg']}" if where else "the body must be an object") from None
    if name is not None and request.model not in (name, *ANY_MODEL):
        raise RequestError(f"no such model here: {request.model[:200]}; there is {name}", 404)
    return request


# Speech


def transcriptions(
    pipe: Pipeline, asked: Transcribe, audio: object, translate: bool, settings: Mapping[str, Any]
) -> dict[str, Item]:
    """Granularity of timestamps, or "" -> the item that gives it. `settings`: of the config, for generation.

    Raises:
        RequestError: the model cannot do what is asked for.
    """
    generates = pipe.type == "seq2seq_whisper"
    wanted: dict[str, object] = {"task": "translate"} if translate else {}
    if asked.language is not None:
        wanted["language"] = asked.language
    if asked.temperature:
        wanted |= {"do_sample": True, "temperature": asked.temperature}
    if wanted and not generates:
        raise RequestError(f"the model takes no {next(iter(wanted))}: it writes down what it hears")
    if asked.prompt:
        raise RequestError("prompt: the service takes none")
    options: dict[str, object] = {"generate_kwargs": {**settings, **wanted}} if wanted else {}
    if asked.response_format in ("json", "text"):
        return {"": Item({"audio": audio}, options)}
    if not generates:
        return {"word": Item({"audio": audio}, {**options, "return_timestamps": "word"})}
    wants_words = asked.response_format == "verbose_json" and "word" in asked.timestamp_granularities
    kinds = {"segment": True, **({"word": "word"} if wants_words else {})}
    return {name: Item({"audio": audio}, {**options, "return_timestamps": kind}) for name, kind in kinds.items()}


def transcript(asked: Transcribe, found: Mapping[str, Mapping[str, Any]], seconds: float, translate: bool) -> Any:  # noqa: ANN401  # JSON, or a text
    """The answer, from granularity -> prediction. `seconds`: of the recording."""
    first = next(iter(found.values()))
    text = first["text"].strip()
    if asked.response_format == "json":
        return {"text": text}
    if asked.response_format == "text":
        return text + "\n"
    chunks = found.get("segment", first)["chunks"]
    if asked.response_format in ("srt", "vtt"):
        return subtitles.render(chunks, asked.response_format)
    answer: dict[str, Any] = {
        "task": "translate" if translate else "transcribe",
        "language": asked.language or "unknown",
        "duration": seconds,
        "text": text,
    }
    if "segment" in asked.timestamp_granularities:
        answer["segments"] = [
            {
                "id": number, "seek": 0, "start": cue.start, "end": cue.stop, "text": cue.text, "tokens": [],
                "temperature": asked.temperature or 0.0, "avg_logprob": 0.0, "compression_ratio": 0.0, "no_speech_prob": 0.0,
            }
            for number, cue in enumerate(subtitles.cues(chunks))
        ]  # fmt: skip
    if "word" in asked.timestamp_granularities:
        answer["words"] = [
            {"word": word["text"].strip(), "start": word["timestamp"][0], "end": word["timestamp"][1]}
            for word in found.get("word", first)["chunks"]
        ]
    return answer


# Embeddings


def embedding_items(pipe: Pipeline, asked: Embed) -> list[Item]:
    """An item for each text. Raises RequestError."""
    given: list[Any] = [asked.input] if isinstance(asked.input, str) else list(asked.input)
    if given and isinstance(given[0], int):
        given = [given]
    if not 0 < len(given) <= MOST_INPUTS:
        raise RequestError(f"input: expected 1 to {MOST_INPUTS} texts, got {len(given)}")
    texts = [text if isinstance(text, str) else _decoded(pipe, text) for text in given]
    return [Item({"text": text}) for text in texts]


def _decoded(pipe: Pipeline, tokens: Sequence[int]) -> str:
    if not all(0 <= token < len(pipe.tokenizer) for token in tokens):
        raise RequestError("input: no such token; send the texts")
    return str(pipe.tokenizer.decode(tokens))


def embeddings(asked: Embed, name: str, predictions: Sequence[Any], tokens: int) -> dict[str, Any]:
    """The answer. A prediction is a vector; where the model gives one for each token, their mean."""
    data = []
    for index, prediction in enumerate(predictions):
        vector = np.asarray(prediction, np.float32)
        vector = vector.reshape(-1, vector.shape[-1]).mean(0)
        if asked.dimensions is not None:
            vector = _shortened(vector, asked.dimensions)
        kept: object = vector.tolist()
        if asked.encoding_format == "base64":
            kept = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": kept})
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _shortened(vector: np.ndarray, dimensions: int) -> np.ndarray:
    """The first dimensions, of length 1, as OpenAI shortens its own."""
    if dimensions > len(vector):
        raise RequestError(f"dimensions: the model gives {len(vector)}")
    cut = vector[:dimensions]
    return cut / max(float(np.linalg.norm(cut)), 1e-12)


# Text


def options(asked: _Generate, longest: int | None = None) -> dict[str, Any]:
    """Call arguments of the pipeline for what is to be generated."""
    given: dict[str, Any] = {"return_full_text": False}
    limit = longest or asked.max_tokens
    if limit is not None:
        given["max_new_tokens"] = limit
    if asked.temperature is not None:
        given |= {"do_sample": True, "temperature": asked.temperature} if asked.temperature > 0 else {"do_sample": False}
    if asked.top_p is not None:
        given["top_p"] = asked.top_p
    if asked.n > 1:
        given |= {"num_return_sequences": asked.n, "do_sample": True}
    return given


async def chat_item(asked: Chat, admission: Admission) -> Item:
    """A conversation. Raises RequestError for what the service does not do."""
    if asked.tools:
        raise RequestError("tools: the service calls none")
    if asked.response_format and asked.response_format.get("type") != "text":
        raise RequestError("response_format: the service writes text")
    messages = [await message(one, admission) for one in asked.messages]
    return Item({"text": messages}, options(asked, asked.max_completion_tokens or asked.max_tokens))


def completion_items(asked: Complete) -> list[Item]:
    """An item for each prompt. Raises RequestError."""
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if not 0 < len(prompts) <= MOST_INPUTS:
        raise RequestError(f"prompt: expected 1 to {MOST_INPUTS} texts, got {len(prompts)}")
    return [Item({"text": prompt}, options(asked)) for prompt in prompts]


class Answer:
    """One answer, whole or in pieces: cut where a stop begins, its tokens counted."""

    def __init__(self, stops: Sequence[str], limit: int | None, pipe: Pipeline) -> None:
        """`limit`: of tokens."""
        self._stops, self._limit, self._pipe = stops, limit, pipe
        self._text, self._given = "", 0
        self.has_stopped = False

    def add(self, piece: str, is_last: bool = False) -> str:
        """What of the text may be shown now: all but what could yet become a stop."""
        if self.has_stopped:
            return ""
        self._text += piece
        places = [place for place in (self._text.find(stop) for stop in self._stops) if place >= 0]
        if places:
            self.has_stopped, self._text = True, self._text[: min(places)]
        held = 0 if is_last or self.has_stopped else max((self._begun(stop) for stop in self._stops), default=0)
        shown = self._text[self._given : len(self._text) - held]
        self._given += len(shown)
        return shown

    def _begun(self, stop: str) -> int:
        """How much of a stop the text ends with."""
        return next((length for length in range(len(stop) - 1, 0, -1) if self._text.endswith(stop[:length])), 0)

    @property
    def tokens(self) -> int:
        """Of the text so far."""
        return len(self._pipe.tokenizer(self._text, add_special_tokens=False)["input_ids"]) if self._text else 0

    @property
    def reason(self) -> Literal["stop", "length"]:
        """Why it ends."""
        return "length" if not self.has_stopped and self._limit is not None and self.tokens >= self._limit else "stop"


def whole(
    pipe: Pipeline, asked: _Generate, prediction: Sequence[Mapping[str, Any]], limit: int | None
) -> list[tuple[str, Answer]]:
    """(text, answer) of each choice of one prompt."""
    found = []
    for record in prediction:
        answer = Answer(asked.stops, limit, pipe)
        found.append((answer.add(str(record["generated_text"]), is_last=True), answer))
    return found


def completed(
    pipe: Pipeline, asked: Complete, items: Sequence[Item], predictions: Sequence[Any], limit: int | None
) -> list[tuple[str, Answer]]:
    """(text, answer) of each choice of all prompts, in order."""
    return [
        (f"{item.cells['text']}{text}" if asked.echo else text, answer)
        for item, prediction in zip(items, predictions, strict=True)
        for text, answer in whole(pipe, asked, prediction, limit)
    ]


def chat_answer(name: str, choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, Any]:
    """The answer to a chat."""
    made = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": answer.reason, "logprobs": None}
        for index, (text, answer) in enumerate(choices)
    ]
    return {**_head("chat.completion", name), "choices": made, "usage": _usage(choices, prompt_tokens)}


def completion_answer(name: str, choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, Any]:
    """The answer to prompts; `choices` of all of them, in order."""
    made = [
        {"index": index, "text": text, "finish_reason": answer.reason, "logprobs": None}
        for index, (text, answer) in enumerate(choices)
    ]
    return {**_head("text_completion", name), "choices": made, "usage": _usage(choices, prompt_tokens)}


class Pieces:
    """The events of an answer that is streamed."""

    def __init__(self, name: str, is_chat: bool) -> None:
        """`is_chat`: of a conversation, otherwise of a prompt."""
        self._is_chat = is_chat
        self._head = _head("chat.completion.chunk" if is_chat else "text_completion", name)

    def first(self) -> Iterator[dict[str, Any]]:
        """What comes before the text."""
        if self._is_chat:
            yield self._event({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> dict[str, Any]:
        """The next text."""
        return self._event({"content": text} if self._is_chat else text, None)

    def last(self, answer: Answer, prompt_tokens: int, with_usage: bool) -> Iterator[dict[str, Any]]:
        """Why it ends, and what was used."""
        yield self._event({} if self._is_chat else "", answer.reason)
        if with_usage:
            yield {**self._head, "choices": [], "usage": _usage([("", answer)], prompt_tokens)}

    def _event(self, content: object, reason: str | None) -> dict[str, Any]:
        key = "delta" if self._is_chat else "text"
        return {**self._head, "choices": [{"index": 0, key: content, "finish_reason": reason, "logprobs": None}]}


def models(name: str, since: float) -> dict[str, Any]:
    """GET /v1/models."""
    return {"object": "list", "data": [{"id": name, "object": "model", "created": math.floor(since), "owned_by": "dray"}]}


def _head(kind: str, name: str) -> dict[str, Any]:
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": math.floor(time.time()), "model": name}


def _usage(choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, int]:
    written = sum(answer.tokens for _, answer in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written}
