"""OpenAI's chats and completions: makes items of requests, and answers of predictions, whole or streamed."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from dray.pipelines.errors import RequestError
from dray.pipelines.media.admission import Admission
from dray.pipelines.phases.item import Item
from dray.pipelines.protocols.huggingface import message
from dray.pipelines.protocols.openai import MOST_INPUTS, Chat, Complete, Generate

if TYPE_CHECKING:
    from transformers import Pipeline


def options(request: Generate, longest: int | None = None) -> dict[str, Any]:
    """The pipeline's call arguments for a request. `longest`: instead of the request's max_tokens."""
    given: dict[str, Any] = {"return_full_text": False}
    limit = longest or request.max_tokens
    if limit is not None:
        given["max_new_tokens"] = limit
    if request.temperature is not None:
        given |= {"do_sample": True, "temperature": request.temperature} if request.temperature > 0 else {"do_sample": False}
    if request.top_p is not None:
        given["top_p"] = request.top_p
    if request.n > 1:
        given |= {"num_return_sequences": request.n, "do_sample": True}
    return given


async def chat_item(request: Chat, admission: Admission) -> Item:
    """The item of a conversation. Raises RequestError for options that the service does not support."""
    if request.tools:
        raise RequestError("tools: the service does not support tools")
    if request.response_format and request.response_format.get("type") != "text":
        raise RequestError("response_format: the service supports only text")
    messages = [await message(one, admission) for one in request.messages]
    return Item({"text": messages}, options(request, request.max_completion_tokens or request.max_tokens))


def completion_items(request: Complete) -> list[Item]:
    """The items, one for each prompt. Raises RequestError."""
    prompts = [request.prompt] if isinstance(request.prompt, str) else request.prompt
    if not 0 < len(prompts) <= MOST_INPUTS:
        raise RequestError(f"prompt: expected 1 to {MOST_INPUTS} texts, got {len(prompts)}")
    return [Item({"text": prompt}, options(request)) for prompt in prompts]


class Answer:
    """One answer, whole or streamed. It ends before the first stop text, and counts its tokens."""

    def __init__(self, stops: Sequence[str], limit: int | None, pipe: Pipeline) -> None:
        """`stops`: texts that end the answer; `limit`: the most tokens."""
        self._stops, self._limit, self._pipe = stops, limit, pipe
        self._text, self._given = "", 0
        self.has_stopped = False

    def add(self, piece: str, is_last: bool = False) -> str:
        """The text that may be sent now: all but a possible beginning of a stop text."""
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
        """How many characters of a stop text are at the end of the text."""
        return next((length for length in range(len(stop) - 1, 0, -1) if self._text.endswith(stop[:length])), 0)

    @property
    def tokens(self) -> int:
        """The number of tokens of the text so far."""
        return len(self._pipe.tokenizer(self._text, add_special_tokens=False)["input_ids"]) if self._text else 0

    @property
    def reason(self) -> Literal["stop", "length"]:
        """Why the answer ends."""
        return "length" if not self.has_stopped and self._limit is not None and self.tokens >= self._limit else "stop"


def choices_of_chat(
    pipe: Pipeline, request: Generate, prediction: Sequence[Mapping[str, Any]], limit: int | None
) -> list[tuple[str, Answer]]:
    """(text, answer) of each choice of one prompt."""
    choices = []
    for record in prediction:
        answer = Answer(request.stops, limit, pipe)
        choices.append((answer.add(str(record["generated_text"]), is_last=True), answer))
    return choices


def choices_of_completion(
    pipe: Pipeline, request: Complete, items: Sequence[Item], predictions: Sequence[Any], limit: int | None
) -> list[tuple[str, Answer]]:
    """(text, answer) of each choice of all prompts, in order."""
    return [
        (f"{item.values['text']}{text}" if request.echo else text, answer)
        for item, prediction in zip(items, predictions, strict=True)
        for text, answer in choices_of_chat(pipe, request, prediction, limit)
    ]


def chat_answer(name: str, choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, Any]:
    """The answer to a chat."""
    made = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": answer.reason, "logprobs": None}
        for index, (text, answer) in enumerate(choices)
    ]
    return {**_head("chat.completion", name), "choices": made, "usage": _usage(choices, prompt_tokens)}


def completion_answer(name: str, choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, Any]:
    """The answer to prompts. `choices`: those of all prompts, in order."""
    made = [
        {"index": index, "text": text, "finish_reason": answer.reason, "logprobs": None}
        for index, (text, answer) in enumerate(choices)
    ]
    return {**_head("text_completion", name), "choices": made, "usage": _usage(choices, prompt_tokens)}


class Pieces:
    """Makes the events of a streamed answer."""

    def __init__(self, name: str, is_chat: bool) -> None:
        """`is_chat`: the answer is to a conversation, not to a prompt."""
        self._is_chat = is_chat
        self._head = _head("chat.completion.chunk" if is_chat else "text_completion", name)

    def first(self) -> Iterator[dict[str, Any]]:
        """Yields the events before the text."""
        if self._is_chat:
            yield self._event({"role": "assistant", "content": ""}, None)

    def piece(self, text: str) -> dict[str, Any]:
        """The event of the next piece of text."""
        return self._event({"content": text} if self._is_chat else text, None)

    def last(self, answer: Answer, prompt_tokens: int, with_usage: bool) -> Iterator[dict[str, Any]]:
        """Yields the last events: the reason for the end and, `with_usage`, the numbers of tokens."""
        yield self._event({} if self._is_chat else "", answer.reason)
        if with_usage:
            yield {**self._head, "choices": [], "usage": _usage([("", answer)], prompt_tokens)}

    def _event(self, content: object, reason: str | None) -> dict[str, Any]:
        key = "delta" if self._is_chat else "text"
        return {**self._head, "choices": [{"index": 0, key: content, "finish_reason": reason, "logprobs": None}]}


def _head(kind: str, name: str) -> dict[str, Any]:
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": math.floor(time.time()), "model": name}


def _usage(choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, int]:
    written = sum(answer.tokens for _, answer in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written}
