"""OpenAI's chats and completions: requests as items; predictions as answers, whole or in pieces."""

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


def options(asked: Generate, longest: int | None = None) -> dict[str, Any]:
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
    pipe: Pipeline, asked: Generate, prediction: Sequence[Mapping[str, Any]], limit: int | None
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
        (f"{item.values['text']}{text}" if asked.echo else text, answer)
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


def _head(kind: str, name: str) -> dict[str, Any]:
    prefix = "chatcmpl" if kind.startswith("chat") else "cmpl"
    return {"id": f"{prefix}-{uuid.uuid4().hex}", "object": kind, "created": math.floor(time.time()), "model": name}


def _usage(choices: Sequence[tuple[str, Answer]], prompt_tokens: int) -> dict[str, int]:
    written = sum(answer.tokens for _, answer in choices)
    return {"prompt_tokens": prompt_tokens, "completion_tokens": written, "total_tokens": prompt_tokens + written}
