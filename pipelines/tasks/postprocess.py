"""Changes pipelines' predictions so that they fit an Arrow type: encodes media, and makes records of dynamic keys."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np

Prediction = dict[str, Any]


def as_list(prediction: Prediction | list[Prediction]) -> list[Prediction]:
    """A list of scored labels: `postprocess` of text classification returns a single label as a bare dict."""
    return [prediction] if isinstance(prediction, dict) else prediction


def flat_masks(prediction: list[Any]) -> list[Prediction]:
    """The answers of fill-mask as one list; `mask` is the number of the mask that an answer fills, from 0.

    The pipeline gives one list for each mask where a text has several.
    """
    nested = prediction if prediction and isinstance(prediction[0], list) else [prediction]
    return [{"mask": number, **answer} for number, answers in enumerate(nested) for answer in answers]


def sound(prediction: Prediction) -> Prediction:
    """Audio of shape (samples,) or (channels, samples) as 24-bit FLAC, clipped to [-1, 1]."""
    import soundfile

    wave, rate = np.asarray(prediction["audio"], np.float32), int(prediction["sampling_rate"])
    file = io.BytesIO()
    soundfile.write(file, np.clip(np.atleast_1d(wave).T, -1, 1), rate, format="FLAC", subtype="PCM_24")
    return {"audio": file.getvalue(), "sampling_rate": rate}


def masks(prediction: Prediction) -> Prediction:
    """Boolean masks, (height, width) each, as images of 0 and 255; scores and boxes as plain lists."""
    from PIL import Image

    shown = {**prediction, "masks": [Image.fromarray(np.asarray(mask).astype(np.uint8) * 255) for mask in prediction["masks"]]}
    for name in ("scores", "bounding_boxes"):
        if name in shown:
            shown[name] = [value.tolist() for value in shown[name]]
    return shown


def messages(prediction: list[Prediction]) -> list[Prediction]:
    """Conversations without their media. Every content has the form that the row's has: a text, or a list of parts."""
    return [{key: _conversation(value) for key, value in record.items()} for record in prediction]


def _conversation(value: object) -> object:
    if not (isinstance(value, list) and value and isinstance(value[0], Mapping)):
        return value
    in_parts = any(isinstance(message.get("content"), list) for message in value)
    return [{**message, "content": _content(message.get("content"), in_parts)} for message in value]


def _content(content: object, in_parts: bool) -> object:
    if in_parts and isinstance(content, str):
        return [{"type": "text", "text": content}]
    if isinstance(content, list):
        return [{"type": part.get("type"), "text": part.get("text")} for part in content]
    return content


def answers(prediction: Mapping[str, Prediction]) -> list[Prediction]:
    """One record for each question, with its name; dicts with a key for each option become lists of records too."""
    return [
        {
            **answer,
            "question": name,
            "probabilities": _records(answer.get("probabilities"), "probability"),
            "legend": _records(answer.get("legend"), "description"),
        }
        for name, answer in prediction.items()
    ]


def _records(by_option: Mapping[str, object] | None, name: str) -> list[Prediction] | None:
    return None if by_option is None else [{"option": option, name: value} for option, value in by_option.items()]


def ranked_records(prediction: Mapping[str, Any]) -> list[Prediction]:
    """Zero-shot labels and their scores as records, as in Hugging Face's inference API."""
    return [{"label": label, "score": score} for label, score in zip(prediction["labels"], prediction["scores"], strict=True)]


def nested_masks(prediction: list[Prediction]) -> list[Any]:
    """The inverse of `flat_masks`: the answers for one mask, or a list of answers for each of several."""
    masks = [[answer for answer in prediction if answer["mask"] == mask] for mask in range(1 + prediction[-1]["mask"])]
    nested = [[{name: value for name, value in answer.items() if name != "mask"} for answer in answers] for answers in masks]
    return nested if len(nested) > 1 else nested[0]
