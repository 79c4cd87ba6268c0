"""Hugging Face's inference protocol, as `huggingface_hub.InferenceClient` uses it.

A request is `{"inputs": ..., "parameters": {...}}`, or the bytes of a medium. Source: the client's request and answer types.
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
OWN = ("details", "stream", "decoder_input_details", "model", "word_boxes")  # parameters that are not passed to the pipeline
EMBEDDING = ("normalize", "truncate", "truncation_direction", "prompt_name", "dimensions", "encoding_format")  # beside `inputs`
SCHEMA: Mapping[str, Any] = {  # of a request, for OpenAPI
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {"description": "a text, a medium in base64, an object of the pipeline's arguments, or a list of several"},
        "parameters": {"type": "object", "description": "call arguments of the pipeline"},
        "stream": {"type": "boolean", "description": "send generated text piece by piece"},
    },
}


@dataclass(frozen=True)
class InferenceRequest:
    """A parsed request.

    Attributes:
        items: the inputs of the pipeline, one or several.
        is_list: whether the client sent a list, and so gets one.
        stream: whether the answer is streamed.
        extras: the parameters that are not arguments of the pipeline, such as `details` of generated text.
    """

    items: list[Item]
    is_list: bool = False
    stream: bool = False
    extras: Mapping[str, Any] | None = None


async def read_request(task: Task, body: bytes, content_type: str, admission: Admission) -> InferenceRequest:
    """The request in a body. Media that it names are fetched.

    Raises:
        RequestError: it is not a valid request for this task, or holds media or parameters that are not allowed.
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
    """The pipeline's arguments for the parameters of an embedding. Raises RequestError."""
    given = {name: extras[name] for name in EMBEDDING if name in extras}
    only = {"truncation_direction": "right", "encoding_format": "float"} if task.embeds else {}
    for name, value in given.items():
        if not only or name == "prompt_name":
            raise RequestError(f"{task.name} takes no {name} here")
        if name in only and value != only[name]:
            raise RequestError(f'{name}: "{only[name]}" is what there is')
        kind = int if name == "dimensions" else bool
        if name not in only and type(value) is not kind:
            raise RequestError(f"{name} must be {'a whole number' if kind is int else 'true or false'}")
    return {"truncation": True} if given.get("truncate") else {}  # false does not override the config


def parsed(body: bytes) -> object:
    """The JSON of a body. Raises RequestError."""
    try:
        content: object = json.loads(body, parse_constant=_no_number)
        if b"\\u" in body:
            json.dumps(content, ensure_ascii=False).encode()  # raises for lone surrogates
    except UnicodeEncodeError:
        raise RequestError("the body holds \\ud800 to \\udfff alone, which is half of a character") from None
    except (ValueError, RecursionError):
        raise RequestError("the body is not JSON") from None
    return content


def _no_number(name: str) -> object:
    raise ValueError(name)


def answer_of(task: Task, request: InferenceRequest, predictions: list[Any]) -> tuple[bytes, str]:
    """(body, media type) of the answer. `predictions` are as a batch job writes them."""
    if task.makes_sound and not request.is_list:
        return bytes(predictions[0]["audio"]), FLAC
    shaped = [_embedded(task.to_client(prediction), request.extras or {}) for prediction in predictions]
    if task.answers_with_list and not request.is_list:
        shaped = [shaped]
    content = shaped if request.is_list else shaped[0]
    return plain_json(content), JSON


def plain_json(content: object) -> bytes:
    """The content as JSON: media in base64, arrays as lists."""
    return json.dumps(content, default=_plain, allow_nan=False).encode()


def stream_event(piece: str, whole: str | None) -> dict[str, Any]:
    """An event of a streamed text. `whole` is the whole text in the last event, and None before."""
    token = {"id": 0, "text": piece, "logprob": 0.0, "special": whole is not None}
    return {"index": 0, "token": token, "generated_text": whole, "details": None}


def _is_json(body: bytes, content_type: str) -> bool:
    """Whether a body is JSON: by its content type, or else by its first character."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind.startswith(("audio/", "image/", "video/")):
        return False
    return kind == JSON or kind.endswith("+json") or body.lstrip()[:1] == b"{"


def _are_several(task: Task, inputs: list[Any]) -> bool:
    """Whether a list is several inputs. It may be one input: the messages of a chat, or two pictures to match."""
    decode = task.arguments[task.inputs[0]]
    if decode is values.images:
        return bool(inputs) and isinstance(inputs[0], (list, dict))
    if decode is values.chat:
        return not (inputs and isinstance(inputs[0], Mapping) and "role" in inputs[0])
    return True


async def _cells(task: Task, value: object, admission: Admission) -> dict[str, object]:
    """The pipeline's arguments of one input, which is the main argument's value, or a dict of arguments."""
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
    """A message of a chat, with media as bytes. Parts may be in transformers' or OpenAI's form. Raises RequestError."""
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
    """An embedding, shortened and normalized if the request says so; other predictions unchanged."""
    if "dimensions" in extras:
        return vectors.shortened(vectors.array(prediction), extras["dimensions"])
    return vectors.normalized(vectors.array(prediction)) if extras.get("normalize") else prediction


def _plain(value: object) -> object:
    """Values that JSON lacks: media in base64, arrays as lists. Raises TypeError for others."""
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
