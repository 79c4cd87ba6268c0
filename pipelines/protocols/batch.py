"""Rows that are requests of OpenAI's Batch files. A request becomes items; their predictions become its answer."""

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
    """The same task, with requests as rows. Raises ConfigError if OpenAI has no endpoint for it."""
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
    """Accepts any file: the requests are the input of a job, not of a client."""

    async def medium(self, value: object) -> Any:  # noqa: ANN401  # the value of a cell
        return value


@dataclass(frozen=True)
class _Call:
    """A parsed request, and the items that answer it."""

    url: str
    request: Any
    items: list[Item]
    kinds: Sequence[str] = ()  # of timestamps, one for each item


class Requests(Phases):
    """A pipeline whose items are requests. The prediction is the body of the answer as JSON, without `id` and `created`."""

    def __init__(self, pipe: Pipeline, config: JobConfig, task: Task) -> None:
        """`task` is one of `requests_task`."""
        self._plain = find_task(task.name)
        super().__init__(pipe, config, self._plain)
        self.task = task
        self._name = config.model_name
        self._settings: Any = config.parameters.get("generate_kwargs") or {}

    def check(self, item: Item) -> None:
        """Checks the items that answer the request, as `Phases.check` does."""
        for each in self._call(item).items if REQUEST in item.values else [item]:
            super().check(each)

    def decode(self, item: Item) -> dict[str, object]:
        """The arguments of an item that answers a request; of a row, the parsed request."""
        if REQUEST in item.values:
            return {REQUEST: self._call(item).request}
        decoded = {name: self._plain.arguments[name](cell, self.media_options) for name, cell in item.values.items()}
        return {self._plain.inputs[0]: None, **decoded}

    def preprocess(self, item: Item) -> Iterator[Part]:
        """Yields the parts of all items of the request. Each item has the same number of parts."""
        for each in self._call(item).items:
            yield from super().preprocess(each)

    def postprocess(self, outputs: list[Output], item: Item) -> object:
        """The body of the answer, as JSON."""
        call = self._call(item)
        size = len(outputs) // len(call.items)
        groups = [outputs[start : start + size] for start in range(0, len(outputs), size)]
        predictions = [super(Requests, self).postprocess(group, each) for group, each in zip(groups, call.items, strict=True)]
        answer = self._answer(call, predictions)
        return json.dumps({key: value for key, value in answer.items() if key not in ("id", "created")}, allow_nan=False)

    def _call(self, item: Item) -> _Call:
        """The request of a row, with its items. Raises RequestError if it is not a valid request for this task."""
        sent = openai.line(str(item.values.get(REQUEST, item.options.get(REQUEST))))
        url, body = sent["url"], sent["body"]
        known = [f"/v1/{endpoint}" for endpoint in self.task.endpoints]
        if url not in known:
            raise RequestError(f"url: {self.task.name} answers {' and '.join(known)}, not {str(url)[:100]}")
        kinds: Sequence[str] = ()
        request: Any
        if url == "/v1/embeddings":
            request = openai.read(openai.Embed, body)
            items = openai_vectors.embedding_items(self.pipe, request)
        elif url == "/v1/chat/completions":
            request = openai.read(openai.Chat, body)
            items = [asyncio.run(openai_text.chat_item(request, _Trusting()))]
        elif url == "/v1/completions":
            request = openai.read(openai.Complete, body)
            items = openai_text.completion_items(request)
        else:
            request = openai.read(openai.Transcribe, body)
            if not isinstance(body.get("file"), str):
                raise RequestError("file: the recording is missing; name it by its path or URL, or send it in base64")
            translate = url.endswith("translations")
            by_kind = openai_speech.transcriptions(self.pipe, request, body["file"], translate, self._settings)
            kinds, items = list(by_kind), list(by_kind.values())
        if getattr(request, "stream", False):
            raise RequestError("stream: the answers of a batch are not streamed")
        return _Call(url, request, [replace(each, key=item.key) for each in items], kinds)

    def _answer(self, call: _Call, predictions: Sequence[Any]) -> dict[str, Any]:
        request, limit = call.request, self.most_tokens(call.items[0])
        if call.url == "/v1/embeddings":
            return openai_vectors.embeddings(request, self._name, predictions, self._tokens(call.items))
        if call.url == "/v1/chat/completions":
            choices = openai_text.choices_of_chat(self.pipe, request, predictions[0], limit)
            return openai_text.chat_answer(self._name, choices, self._tokens(call.items))
        if call.url == "/v1/completions":
            texts = openai_text.choices_of_completion(self.pipe, request, call.items, predictions, limit)
            return openai_text.completion_answer(self._name, texts, self._tokens(call.items))
        seconds = 0.0
        if request.response_format == "verbose_json":
            seconds = sum(part.seconds for part in super().preprocess(call.items[0]))
        by_kind = dict(zip(call.kinds, predictions, strict=True))
        content = openai_speech.transcript(request, by_kind, seconds, call.url.endswith("translations"))
        return {"text": content} if isinstance(content, str) else content

    def _tokens(self, items: Sequence[Item]) -> int:
        """The number of tokens in the model's input."""
        return sum(part.cost for item in items for part in super(Requests, self).preprocess(item))
