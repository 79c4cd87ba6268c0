"""Arrow types of predictions: structs and lists as in the pipelines' output, with media as encoded bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from transformers import Pipeline

STRING, DOUBLE, INT, BINARY = pa.string(), pa.float64(), pa.int64(), pa.binary()

SCORED = pa.list_(pa.struct([("label", STRING), ("score", DOUBLE)]))
RANKED = pa.struct([("sequence", STRING), ("labels", pa.list_(STRING)), ("scores", pa.list_(DOUBLE))])
BOX = pa.struct([("xmin", INT), ("ymin", INT), ("xmax", INT), ("ymax", INT)])
BOXES = pa.list_(pa.struct([("score", DOUBLE), ("label", STRING), ("box", BOX)]))
SEGMENTS = pa.list_(pa.struct([("score", DOUBLE), ("label", STRING), ("mask", BINARY)]))
DEPTH = pa.struct([("predicted_depth", pa.list_(pa.list_(pa.float32()))), ("depth", BINARY)])
POINT = pa.struct([("x", DOUBLE), ("y", DOUBLE)])
MATCHES = pa.list_(pa.struct([("keypoint_image_0", POINT), ("keypoint_image_1", POINT), ("score", DOUBLE)]))
FILLED = pa.list_(pa.struct([("mask", INT), ("score", DOUBLE), ("token", INT), ("token_str", STRING), ("sequence", STRING)]))
SPANS = pa.list_(pa.struct([("score", DOUBLE), ("answer", STRING), ("start", INT), ("end", INT)]))
CELLS = pa.struct(
    [
        ("answer", STRING),
        ("coordinates", pa.list_(pa.list_(INT))),
        ("cells", pa.list_(STRING)),
        ("aggregator", STRING),
    ]
)
SOUND = pa.struct([("audio", BINARY), ("sampling_rate", INT)])
DECISIONS = pa.list_(
    pa.struct(
        [
            ("question", STRING),
            ("type", STRING),
            ("noul", DOUBLE),
            ("choice", STRING),
            ("score", DOUBLE),
            ("confidence", DOUBLE),
            ("probabilities", pa.list_(pa.struct([("option", STRING), ("probability", DOUBLE)]))),
            ("legend", pa.list_(pa.struct([("option", STRING), ("description", STRING)]))),
        ]
    )
)


@dataclass(frozen=True)
class Shape:
    """What the type of a prediction depends on.

    Attributes:
        pipe: the pipeline.
        postprocess_params: arguments of its `postprocess`.
        columns: pipeline argument -> Arrow type of its column.
        output: (dimensions, size of the last) of the model's main output; None where that is not known.
    """

    pipe: Pipeline
    postprocess_params: Mapping[str, object] = field(default_factory=dict)
    columns: Mapping[str, pa.DataType] = field(default_factory=dict)
    output: tuple[int, int] | None = None

    def has_option(self, option: str) -> bool:
        """Whether the option is on for all rows, or a column may turn it on for some."""
        return bool(self.postprocess_params.get(option)) or option in self.columns


def transcript(shape: Shape) -> pa.DataType:
    """Speech recognition: the text, and its chunks if timestamps or languages are requested."""
    fields = [("text", STRING)]
    if shape.has_option("return_timestamps") or shape.has_option("return_language"):
        chunk = [("text", STRING), ("timestamp", pa.list_(DOUBLE))]
        if shape.has_option("return_language"):
            chunk.insert(0, ("language", STRING))
        fields.append(("chunks", pa.list_(pa.struct(chunk))))
    return pa.struct(fields)


def entities(shape: Shape) -> pa.DataType:
    """Token classification: tokens, or groups of tokens if there is an aggregation strategy."""
    tokens, groups = [("entity", STRING), ("index", INT)], [("entity_group", STRING)]
    strategy = getattr(shape.postprocess_params.get("aggregation_strategy"), "value", "none")
    what = tokens if strategy == "none" else groups
    if "aggregation_strategy" in shape.columns:
        what = [*tokens, *groups]
    return pa.list_(pa.struct([*what, ("score", DOUBLE), ("word", STRING), ("start", INT), ("end", INT)]))


def masks(shape: Shape) -> pa.DataType:
    """Mask generation: PNG masks with their scores, and run lengths and boxes if requested."""
    fields = [("masks", pa.list_(BINARY)), ("scores", pa.list_(DOUBLE))]
    if shape.has_option("output_rle_mask"):
        fields.append(("rle_mask", pa.list_(pa.struct([("size", pa.list_(INT)), ("counts", pa.list_(INT))]))))
    if shape.has_option("output_bboxes_mask"):
        fields.append(("bounding_boxes", pa.list_(pa.list_(DOUBLE))))
    return pa.struct(fields)


def features(shape: Shape) -> pa.DataType:
    """Feature extraction: nested lists, one level for each dimension; the last is of fixed size if it holds the features."""
    dimensions, size = shape.output or (3, -1)
    is_fixed = size > 0 and dimensions <= 3
    kind = pa.list_(pa.float32(), size) if is_fixed else pa.list_(pa.float32())
    for _ in range(dimensions - 1):
        kind = pa.list_(kind)
    return kind


def generated(shape: Shape) -> pa.DataType:
    """Text generation: a text, token ids, or for chats the conversation with the answer."""
    kind = _return_type(shape)
    if kind == "TENSORS":
        return pa.list_(pa.struct([("generated_token_ids", pa.list_(INT))]))
    chat = _chat(shape.columns.get("text"))
    return pa.list_(pa.struct([("generated_text", chat if chat and kind == "FULL_TEXT" else STRING)]))


def answered(shape: Shape) -> pa.DataType:
    """Multimodal generation: the input text, and what was generated."""
    kind = _return_type(shape)
    text = _chat(shape.columns.get("text")) or STRING
    results = {
        "text": ("generated_text", text if kind == "FULL_TEXT" else STRING),
        "image": ("generated_image", BINARY),
        "audio": ("generated_audio", pa.list_(pa.float32())),
    }
    result = results[str(shape.postprocess_params.get("generation_mode") or "text")]
    if kind == "TENSORS":
        result = ("generated_token_ids", pa.list_(INT))
    return pa.list_(pa.struct([("input_text", text), result]))


def _return_type(shape: Shape) -> str:
    return getattr(shape.postprocess_params.get("return_type"), "name", "FULL_TEXT")


def _chat(column: pa.DataType | None) -> pa.DataType | None:
    """The type of conversations, if the column holds conversations."""
    if column is None or not (pa.types.is_list(column) or pa.types.is_large_list(column)):
        return None
    message = column.value_type
    content = message.field("content").type if message.get_field_index("content") >= 0 else STRING
    parts = pa.list_(pa.struct([("type", STRING), ("text", STRING)]))
    more = [(field.name, field.type) for field in message if field.name not in ("role", "content")]
    return pa.list_(pa.struct([("role", STRING), ("content", parts if pa.types.is_list(content) else STRING), *more]))
