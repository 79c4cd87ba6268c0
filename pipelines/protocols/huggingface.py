"""Hugging Face's inference protocol, as `huggingface_hub.InferenceClient` speaks it.

A request is `{"inputs": ..., "parameters": {...}}`, or a medium as it is. Source: the client's own request and answer types.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from dray.pipelines.errors import RequestError
from dray.pipelines.media import values
from dray.pipelines.media.admission import Admission
from dray.pipelines.phases.item import Item
from dray.pipelines.phases.phases import MEDIA
from dray.pipelines.protocols import vectors
from dray.pipelines.tasks.client_parameters import allowed
from dray.pipelines.tasks.task import Task

MOST_INPUTS = 2048  # in one request
JSON, FLAC = "application/json", "audio/flac"
RENAMED = {"generation_parameters": "generate_kwargs", "function": "function_to_apply"}
OWN = ("details", "stream", "decoder_input_details", "model", "word_boxes")  # parameters that are not the pipeline's
EMBEDDING = ("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions", "encoding_format")  # beside `inputs`
SCHEMA: Mapping[str, Any] = {  # of a request, for OpenAPI
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"description": "a text, a medium in base64, an object of the pipeline's arguments, or a list of several"},
        "parameters": {"type": "object", "description": "call arguments of the pipeline"},
        "stream": {"type": "boolean", "description": "generated text as it comes"},
    },
}


@dataclass(frozen=True)
class InferenceRequest:
    """A request.

    Attributes:
        items: what the pipeline is given, one or several.
        is_list: whether the client has sent a list, and wants one.
        stream: whether it wants the answer as it comes.
        extras: what else it asks for that is no argument of the pipeline, as `details` of generated text.
    """

    items: list[Item]
    is_list: bool = False
    stream: bool = False
    extras: Mapping[str, Any] | None = None


async def asked(task: Task, body: bytes, content_type: str, admission: Admission) -> InferenceRequest:
    """The request that a body makes. Media that it names are fetched.

    Raises:
        RequestError: it is no request for this task, or holds what is not admitted.
    """
    main: str = task.inputs[0]
    if not _is_json(body, content_type):
        if task.arguments[main] not in MEDIA:
            raise RequestError(f'{task.name} takes JSON: {{"inputs": ...}}')
        return InferenceRequest([Item({main: await admission.medium(body)})])
    sent = parsed(body)
    if not isinstance(sent, dict) or "inputs" not in sent:
        raise RequestError('the body must be an object with "inputs"')
    parameters = sent.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise RequestError('"parameters" must be an object')
    named: dict[str, Any] = {RENAMED.get(name, str(name)): value for name, value in parameters.items()}
    extras = {name: value for name, value in {**named, **sent}.items() if name in (*EMBEDDING, *OWN) and value is not None}
    options = allowed(task, {name: value for name, value in named.items() if name not in (*EMBEDDING, *OWN)})
    options |= _of_embedding(task, extras)
    inputs = sent["inputs"]
    is_list = isinstance(inputs, list) and _are_several(task, inputs)
    each = inputs if is_list else [inputs]
    if not 0 < len(each) <= MOST_INPUTS:
        raise RequestError(f'"inputs" holds {len(each)} inputs; it may hold 1 to {MOST_INPUTS}')
    if "word_boxes" in extras and "word_boxes" in task.arguments:
        each = [{**(one if isinstance(one, dict) else {main: one}), "word_boxes": extras["word_boxes"]} for one in each]
    items = [Item(await _cells(task, one, admission), options) for one in each]
    return InferenceRequest(items, is_list, bool(extras.get("stream")), extras)


def _of_embedding(task: Task, extras: Mapping[str, Any]) -> dict[str, Any]:
    """The pipeline's arguments for what is asked of an embedding. Raises RequestError."""
    asked = {name: extras[name] for name in EMBEDDING if name in extras}
    does = {"truncation_direction": "right", "encoding_format": "float"} if task.embeds else {}
    for name, value in asked.items():
        if not does or name == "prompt_name":
            raise RequestError(f"{task.name} takes no {name} here")
        if name in does and value != does[name]:
            raise RequestError(f'{name}: "{does[name]}" is what there is')
        kind = int if name == "dimensions" else bool
        if name not in does and type(value) is not kind:
            raise RequestError(f"{name} must be {'a whole number' if kind is int else 'true or false'}")
    return {"truncation": True} if asked.get("truncate") else {}  # the config's own choice is not taken back


def parsed(body: bytes) -> object:
    """The JSON of a body. Raises RequestError."""
    try:
        content: object = json.loads(body, parse_constant=_no_number)
        if b"\\u" in body:
            json.dumps(content, ensure_ascii=False).encode()  # halves of characters are no text
    except UnicodeEncodeError:
        raise RequestError("the body holds \\ud800 to \\udfff alone, which is half of a character") from None
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON") from None
    return content


def _no_number(name: str) -> object:
    raise ValueError(name)


def answered(task: Task, request: InferenceRequest, predictions: list[Any]) -> tuple[bytes, str]:
    """(body, media type) of the answer; `predictions` as the batch job would write them."""
    if task.makes_sound and not request.is_list:
        return bytes(predictions[0]["audio"]), FLAC
    shaped = [_embedded(task.to_client(prediction), request.extras or {}) for prediction in predictions]
    if task.answers_with_list and not request.is_list:
        shaped = [shaped]
    content = shaped if request.is_list else shaped[0]
    return plain_json(content), JSON


def plain_json(content: object) -> bytes:
    """As JSON: media in base64, arrays as lists."""
    return json.dumps(content, default=_plain, allow_nan=False).encode()


def told(piece: str, whole: str | None) -> dict[str, Any]:
    """An event of a text that is streamed; the last has the `whole` text."""
    token = {"id": 0, "text": piece, "logprob": 0.0, "special": whole is not None}
    return {"index": 0, "token": token, "generated_text": whole, "details": None}


def _is_json(body: bytes, content_type: str) -> bool:
    """Whether a body is JSON: by what it says, or else by how it begins."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(("audio/", "image/", "video/")):
        return False
    return kind == JSON or kind.endswith("+json") or body.lstrip()[:1] == b"{"


def _are_several(task: Task, inputs: list[Any]) -> bool:
    """Whether a list is several inputs, and not one that is a list: a chat's messages, a matching's two pictures."""
    decode = task.arguments[task.inputs[0]]
    if decode is values.images:
        return bool(inputs) and isinstance(inputs[0], (list, dict))
    if decode is values.chat:
        return not (inputs and isinstance(inputs[0], Mapping) and "role" in inputs[0])
    return True


async def _cells(task: Task, value: object, admission: Admission) -> dict[str, object]:
    """The pipeline's arguments of one input: the value itself, or by their names."""
    given = value if isinstance(value, dict) and value.keys() & task.arguments.keys() else {task.inputs[0]: value}
    unknown = sorted(given.keys() - task.arguments.keys())
    if unknown:
        raise RequestError(f"{task.name} takes no {unknown[0]}; it takes {', '.join(task.inputs)}")
    return {name: await cell(task.arguments[name], content, admission) for name, content in given.items()}


async def cell(decode: Callable[..., object], value: object, admission: Admission) -> object:
    """What a client has sent for an argument as a cell that names no file of this machine. Raises RequestError."""
    if decode in MEDIA:
        if decode is values.images and isinstance(value, list):
            return [await admission.medium(one) for one in value]
        return await admission.medium(value)
    if decode is values.as_it_is and not isinstance(value, str):
        raise RequestError("expected a text")
    if decode is values.chat:
        if isinstance(value, str):
            return value
        if not isinstance(value, list):
            raise RequestError("expected a text, or a list of messages")
        return [await message(one, admission) for one in value]
    return value


async def message(sent: object, admission: Admission) -> dict[str, object]:
    """A message of a chat with its media as bytes. Takes parts as transformers and as OpenAI name them. Raises RequestError."""
    if not isinstance(sent, dict) or not isinstance(sent.get("role"), str):
        raise RequestError('a message must be an object with "role" and "content"')
    content = sent.get("content")
    if isinstance(content, list):
        return {**sent, "content": [await _part(part, admission) for part in content]}
    if content is not None and not isinstance(content, str):
        raise RequestError('the "content" of a message must be a text or a list of parts')
    return dict(sent)


async def _part(part: object, admission: Admission) -> object:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise RequestError('a part of a message must be an object with "type"')
    kind = part["type"]
    if kind in ("image_url", "input_audio"):  # OpenAI's
        inner = part.get(kind)
        medium = inner.get("url", inner.get("data")) if isinstance(inner, dict) else inner
        kind = "image" if kind == "image_url" else "audio"
        return {"type": kind, kind: await admission.medium(medium)}
    for key in values.MEDIA_KEYS.get(kind, ()):
        if key in part:
            return {"type": kind, kind: await admission.medium(part[key])}
    if kind != "text" or not isinstance(part.get("text"), str):
        raise RequestError(f'the service knows no parts of type "{kind[:40]}"')
    return {"type": "text", "text": part["text"]}


def _embedded(prediction: object, extras: Mapping[str, Any]) -> object:
    """An embedding cut and made of length 1, where the client asks for it; everything else as it is."""
    if "dimensions" in extras:
        return vectors.shortened(vectors.array(prediction), extras["dimensions"])
    return vectors.normalized(vectors.array(prediction)) if extras.get("normalize") else prediction


def _plain(value: object) -> object:
    """What JSON has no form for: media in base64, arrays as lists."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if hasattr(value, "save") and hasattr(value, "mode"):  # a picture
        import io

        buffer = io.BytesIO()
        value.save(buffer, "PNG")
        return base64.b64encode(buffer.getvalue()).decode()
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"no JSON for a {type(value).__name__}")
