"""Joins the model inputs of several rows to one batch, and splits the model's output into one output per part."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from dray.pipelines.batching.parts import Inputs, Output, Part
from dray.pipelines.internals.generation import CACHES, continues_prompts

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline


def plain(inputs: Any) -> dict[str, Any]:  # noqa: ANN401  # a BatchEncoding, BatchFeature or dict
    """Model inputs as a dict, without the tokenizer's own objects, which are slow to send between processes."""
    return {key: [_light(one) for one in value] if isinstance(value, list) else value for key, value in inputs.items()}


def _light(value: object) -> object:
    return UserDict(value.data) if isinstance(value, UserDict) else value


def elements(inputs: Mapping[str, object]) -> int:
    """The number of elements of the largest tensor."""
    import torch

    return max((value.numel() for value in inputs.values() if isinstance(value, torch.Tensor)), default=1)


def cast(inputs: dict[str, object], dtype: torch.dtype) -> dict[str, object]:
    """The inputs with floating-point tensors in `dtype`, that of the weights; a model on the meta device may have another."""
    import torch

    return {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in inputs.items()
    }


def collate(pipe: Pipeline, parts: Sequence[Part]) -> Inputs:
    """The padded batch of the parts, made by transformers' own rules; a single part is not changed."""
    if len(parts) == 1:
        return dict(parts[0].inputs)
    from transformers.pipelines.base import pad_collate_fn

    extractor = pipe.feature_extractor if pipe.feature_extractor is not None else pipe.image_processor
    if extractor is not None and continues_prompts(pipe):
        # Prompts are padded on the left. A feature extractor's inputs are not padded.
        extractor = SimpleNamespace(padding_value=getattr(extractor, "padding_value", None), padding_side=None)
    padded: Inputs = pad_collate_fn(pipe.tokenizer, extractor)([part.inputs for part in parts])
    return padded


def split(outputs: object, count: int, was_collated: bool = False) -> list[Output]:
    """The output of a batch as `count` outputs of batch dimension 1, split as in transformers' PipelineIterator.

    `was_collated`: the inputs of a single part were collated too, so that its output is split like that of several.
    """
    if count == 1 and not was_collated and not (isinstance(outputs, dict) and any(name in outputs for name in CACHES)):
        return [outputs]
    if not isinstance(outputs, dict):
        raise TypeError(f"the model's output is a {type(outputs).__name__}, which cannot be split into items")
    kept = [key for key in outputs if key not in CACHES]
    if count == 1 and not was_collated:
        return [type(outputs)({key: outputs[key] for key in kept})]
    # The class is kept: postprocessing may read the first field of a ModelOutput.
    return [type(outputs)({key: _row(outputs[key], index) for key in kept}) for index in range(count)]


def _row(value: Any, index: int) -> object:  # noqa: ANN401  # whatever models give
    import torch

    if value is None:
        return None
    if isinstance(value, dict):  # a nested ModelOutput
        return tuple(_row(inner, index) for inner in value.values())
    if isinstance(value, tuple) and value and isinstance(value[0], (torch.Tensor, np.ndarray)):
        return tuple(_row(inner, index) for inner in value)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value[index : index + 1]
    if isinstance(value, (list, tuple)):
        row = value[index]
        return row.unsqueeze(0) if isinstance(row, torch.Tensor) else row
    raise TypeError(f"cannot split a {type(value).__name__}")
