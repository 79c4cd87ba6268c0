"""Requests in Hugging Face's protocol that are refused, and what of a client's text is never a path."""

import asyncio
import base64
import json

import pytest

from dray.pipelines.errors import RequestError
from dray.pipelines.media.admission import Admission
from dray.pipelines.protocols import huggingface
from dray.pipelines.tasks.client_parameters import allowed
from dray.pipelines.tasks.table import TASKS

BAD = [
    (b"{", "not JSON"), (b"[1]", 'an object with "inputs"'), (b"{}", 'an object with "inputs"'), (b"\xff\xfe", "takes JSON"),
    (b'{"inputs": 7}', "expected a text"), (b'{"inputs": []}', "holds 0 inputs"), (b'{"inputs": [["a"]]}', "expected a text"),
    (b'{"inputs": "a", "parameters": [1]}', '"parameters" must be an object'), (b"[" * 100_000, "not JSON"),
    (b'{"inputs": "a", "parameters": {"top_kk": 1}}', "takes no parameter top_kk, did you mean top_k?"),
    (b'{"inputs": "a", "parameters": {"top_k": NaN}}', "not JSON"),
    (b'{"inputs": "a", "normalize": true}', "takes no normalize"),
    (json.dumps({"inputs": ["a"] * 3000}).encode(), "may hold 1 to 2048"),
    (b'{"inputs": {"text": "a", "file": "b"}}', "takes no file"), (b'{"inputs": {"txt": "a"}}', "expected a text"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "message"), BAD, ids=range(len(BAD)))
def test_what_is_no_request_is_said_in_a_sentence(body, message):
    with pytest.raises(RequestError) as error:
        asyncio.run(
            huggingface.read_request(
                TASKS["text-classification"], body, "application/json" if body[0] < 128 else "", Admission()
            )
        )
    assert message in str(error.value)
    assert error.value.status == 422


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("text-generation", {"custom_generate": "someone/code"}), ("text-generation", {"trust_remote_code": True}),
        ("text-generation", {"assistant_model": "/etc"}), ("automatic-speech-recognition", {"decoder": "x"}),
        ("image-text-to-text", {"generate_kwargs": {"custom_generate": "someone/code"}}),
        ("document-question-answering", {"tesseract_config": "--user-words /etc/passwd"}),
    ],
)  # fmt: skip
def test_parameters_that_open_files_or_run_code_are_not_taken(task, parameters):
    with pytest.raises(RequestError, match="takes no"):
        asyncio.run(
            huggingface.read_request(
                TASKS[task], json.dumps({"inputs": "x", "parameters": parameters}).encode(), "application/json", Admission()
            )
        )


@pytest.mark.parametrize(
    ("task", "parameters"),
    [
        ("zero-shot-classification", {"candidate_labels": ["a"], "hypothesis_template": "{:>20000000000}"}),
        ("zero-shot-classification", {"candidate_labels": ["a"], "hypothesis_template": "{0} {}"}),
        ("zero-shot-classification", {"candidate_labels": 7}), ("zero-shot-classification", {"candidate_labels": ["a"] * 1001}),
        ("video-classification", {"num_frames": 2_000_000_000}), ("video-classification", {"num_frames": "many"}),
    ],
)  # fmt: skip
def test_parameters_that_take_memory_without_end_are_not_taken(task, parameters):
    with pytest.raises(RequestError, match="must be"):
        allowed(TASKS[task], parameters)


def test_ordinary_parameters_are_taken():
    given = {"candidate_labels": "water, time", "hypothesis_template": "It is about {}.", "multi_label": True}
    assert allowed(TASKS["zero-shot-classification"], given) == given


PATH = "/etc/passwd"
INSIDE = [
    ("automatic-speech-recognition", PATH), ("image-classification", PATH), ("image-classification", {"image": PATH}),
    ("keypoint-matching", [PATH, PATH]), ("image-text-to-text", {"text": "a", "images": [PATH]}),
    ("video-classification", PATH),
    ("image-text-to-text", [{"role": "user", "content": [{"type": "image", "image": PATH}]}]),
    ("text-generation", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"file://{PATH}"}}]}]),
    ("any-to-any", {"text": [{"role": "user", "content": [{"type": "audio", "path": PATH}]}]}),
    ("document-question-answering", {"image": PATH, "question": "a"}), ("image-classification", {"path": PATH}),
]  # fmt: skip


@pytest.mark.parametrize(("task", "inputs"), INSIDE, ids=range(len(INSIDE)))
def test_no_string_is_a_path(task, inputs):
    with pytest.raises(RequestError):
        asyncio.run(
            huggingface.read_request(TASKS[task], json.dumps({"inputs": inputs}).encode(), "application/json", Admission())
        )


def test_media_in_base64_are_bytes():
    encoded = base64.b64encode(b"picture").decode()
    chat = [{"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image", "url": encoded}]}]
    (item,) = asyncio.run(
        huggingface.read_request(TASKS["image-text-to-text"], json.dumps({"inputs": {"text": chat}}).encode(), "", Admission())
    ).items
    assert item.values["text"][0]["content"] == [{"type": "text", "text": "look"}, {"type": "image", "image": b"picture"}]
