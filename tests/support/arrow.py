"""Items of the catalogue as a table that the dataflow could have read, and the pipelines' answers as rows should hold them."""

import io
import json

import numpy as np
import pyarrow as pa
from PIL import Image

from dray.jobs.columns import ARGUMENT, ERROR, ERROR_TYPE, ID, KEY, POSITION, READ_S, SOURCE
from support import builders


def table_of(items: list[dict[str, object]]) -> pa.Table:
    """Each argument as a column; media as files hold them."""
    names = list(dict.fromkeys(name for item in items for name in item))
    columns = {ARGUMENT + name: pa.array([cell(name, item.get(name)) for item in items]) for name in names}
    rows = len(items)
    fixed = {KEY: pa.array(range(rows), pa.uint64()), ID: pa.array(range(rows)), SOURCE: pa.array(["x"] * rows)}
    unread = {POSITION: pa.array(range(rows)), READ_S: pa.array([0.0] * rows), ERROR: pa.nulls(rows, ERROR_TYPE)}
    return pa.table({**fixed, **unread, **columns})


def cell(name: str, value: object) -> object:
    if name == "questions":
        return json.dumps(value)
    if name == "images" and not isinstance(value, list):
        return [cell("", value)]
    if name == "word_boxes" and value is not None:
        return [{"word": word, "box": list(box)} for word, box in value]
    if isinstance(value, Image.Image):
        file = io.BytesIO()
        value.save(file, "PNG")
        return {"bytes": file.getvalue(), "path": None}
    if isinstance(value, np.ndarray):
        return {"array": value, "sampling_rate": builders.RATE}
    if isinstance(value, dict):
        return {key: cell(key, inner) for key, inner in value.items()}
    return [cell("", inner) for inner in value] if isinstance(value, list) else value


def expected(task: str, prediction: object) -> object:
    """The pipeline's answer in the row's form, where that is not the pipeline's own."""
    if task == "fill-mask":
        nested = prediction if isinstance(prediction[0], list) else [prediction]
        return [{"mask": number, **answer} for number, answers in enumerate(nested) for answer in answers]
    if task == "decision":
        return [{"question": name, **_as_records(answer)} for name, answer in prediction.items()]
    if task in ("text-generation", "image-text-to-text", "any-to-any"):
        return [{key: _conversation(value) for key, value in record.items()} for record in prediction]
    if task == "mask-generation":
        masks = [Image.fromarray(np.asarray(mask).astype(np.uint8) * 255) for mask in prediction["masks"]]
        return {"masks": masks, "scores": [float(score) for score in prediction["scores"]]}
    if task == "text-to-audio":
        return {**prediction, "audio": np.clip(np.atleast_2d(prediction["audio"]), -1, 1)}
    return prediction


def _as_records(answer: dict[str, object]) -> dict[str, object]:
    names = {"probabilities": "probability", "legend": "description"}
    return {
        key: [{"option": option, names[key]: one} for option, one in value.items()] if key in names else value
        for key, value in answer.items()
    }


def _conversation(value: object) -> object:
    if not isinstance(value, list):
        return value
    if not any(isinstance(message["content"], list) for message in value):
        return value
    return [{"role": message["role"], "content": _parts(message["content"])} for message in value]


def _parts(content: object) -> list[dict[str, object]]:
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [{"type": part["type"], "text": part.get("text")} for part in parts]
