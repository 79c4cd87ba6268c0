"""Requests of OpenAI's Batch files as rows: each becomes the items of its endpoint, and their predictions its answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dray.pipelines.batching.parts import Output, Part
from dray.pipelines.config import JobConfig
from dray.pipelines.errors import ConfigError, RequestError
from dray.pipelines.media import values
from dray.pipelines.media.admission import Admission
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import Phases
from dray.pipelines.protocols import openai, openai_speech, openai_text, openai_vectors
from dray.pipelines.tasks.names import find_task
from dray.pipelines.tasks.table import TASKS
from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import Pipeline

REQUEST = "request"


def requests_task(task: Task) -> Task:
    """The task whose rows are requests. Raises ConfigError for one that OpenAI has no endpoint for."""
    if not task.endpoints:
        known = ", ".join(name for name, each in TASKS.items() if each.endpoints)
        raise ConfigError(f"input.format: openai is for the tasks {known}; this is {task.name}")
    return replace(
        task,
        arguments={REQUEST: values.as_it_is},
        postprocess_arguments=(REQUEST,),
        optional=False,
        schema=lambda shape: pa.string(),
        phases=Requests,
    )


class _Trusting(Admission):
    """Whoever wrote the job may name any file."""

    async def medium(self, value: object) -> Any:  # noqa: ANN401  # a cell
        return value


@dataclass(frozen=True)
class _Call:
    """A request that was read: what it asks for, and the items that answer it."""

    url: str
    asked: Any
    items: list[Item]
    kinds: Sequence[str] = ()  # of timestamps, an item each


class Requests(Phases):
    """A pipeline whose items are requests. The prediction is the body of the answer as JSON, without `id` and `created`."""

    def __init__(self, pipe: Pipeline, config: JobConfig, task: Task) -> None:
        """`task` is one of `requests_task`."""
        self._plain = find_task(task.name)
        super().__init__(pipe, config, self._plain)
        self.task = task
        self._name = config.model or task.name
        self._settings: Any = config.parameters.get("generate_kwargs") or {}

    def check(self, item: Item) -> None:
        """As for the items that answer the request."""
        for each in self._call(item).items if REQUEST in item.values else [item]:
            super().check(each)

    def decode(self, item: Item) -> dict[str, object]:
        """The arguments of one of the items that answer a request; of a request itself, what it says."""
        if REQUEST in item.values:
            return {REQUEST: self._call(item).asked}
        decoded = {name: self._plain.arguments[name](cell, self.media_options) for name, cell in item.values.items()}
        return {self._plain.inputs[0]: None, **decoded}

    def preprocess(self, item: Item) -> Iterator[Part]:
        """The parts of all items, equally many of each: the items of one request differ in text, or share a recording."""
        for each in self._call(item).items:
            yield from super().preprocess(each)

    def postprocess(self, outputs: list[Output], item: Item) -> object:
        """The body of the answer."""
        call = self._call(item)
        size = len(outputs) // len(call.items)
        groups = [outputs[start : start + size] for start in range(0, len(outputs), size)]
        predictions = [super(Requests, self).postprocess(group, each) for group, each in zip(groups, call.items, strict=True)]
        answer = self._answer(call, predictions)
        return json.dumps({key: value for key, value in answer.items() if key not in ("id", "created")}, allow_nan=False)

    def _call(self, item: Item) -> _Call:
        """Raises RequestError for what is no request, or none for this task."""
        sent = openai.line(str(item.values.get(REQUEST, item.options.get(REQUEST))))
        url, body = sent["url"], sent["body"]
        known = [f"/v1/{endpoint}" for endpoint in self.task.endpoints]
        if url not in known:
            raise RequestError(f"url: {self.task.name} answers {' and '.join(known)}, not {str(url)[:100]}")
        kinds: Sequence[str] = ()
        asked: Any
        if url == "/v1/embeddings":
            asked = openai.read(openai.Embed, body)
            items = openai_vectors.embedding_items(self.pipe, asked)
        elif url == "/v1/chat/completions":
            asked = openai.read(openai.Chat, body)
            items = [asyncio.run(openai_text.chat_item(asked, _Trusting()))]
        elif url == "/v1/completions":
            asked = openai.read(openai.Complete, body)
            items = openai_text.completion_items(asked)
        else:
            asked = openai.read(openai.Transcribe, body)
            if not isinstance(body.get("file"), str):
                raise RequestError("file: the recording is missing; name it by its path or URL, or send it in base64")
            translate = url.endswith("translations")
            found = openai_speech.transcriptions(self.pipe, asked, body["file"], translate, self._settings)
            kinds, items = list(found), list(found.values())
        if getattr(asked, "stream", False):
            raise RequestError("stream: the answers of a batch are not streamed")
        return _Call(url, asked, [replace(each, key=item.key) for each in items], kinds)

    def _answer(self, call: _Call, predictions: Sequence[Any]) -> dict[str, Any]:
        asked, limit = call.asked, self.most_tokens(call.items[0])
        if call.url == "/v1/embeddings":
            return openai_vectors.embeddings(asked, self._name, predictions, self._tokens(call.items))
        if call.url == "/v1/chat/completions":
            choices = openai_text.whole(self.pipe, asked, predictions[0], limit)
            return openai_text.chat_answer(self._name, choices, self._tokens(call.items))
        if call.url == "/v1/completions":
            texts = openai_text.completed(self.pipe, asked, call.items, predictions, limit)
            return openai_text.completion_answer(self._name, texts, self._tokens(call.items))
        seconds = 0.0
        if asked.response_format == "verbose_json":
            seconds = sum(part.seconds for part in super().preprocess(call.items[0]))
        found = dict(zip(call.kinds, predictions, strict=True))
        content = openai_speech.transcript(asked, found, seconds, call.url.endswith("translations"))
        return {"text": content} if isinstance(content, str) else content

    def _tokens(self, items: Sequence[Item]) -> int:
        """Of what the model was given."""
        return sum(part.cost for item in items for part in super(Requests, self).preprocess(item))
