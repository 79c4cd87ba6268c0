"""Decides which model inputs may share a batch without changing each other's results, and cuts padding off outputs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any

from dray.pipelines.internals.generation import continues_prompts, depends_on_prompt

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline

Inputs = Mapping[str, Any]


class Sharing(enum.Enum):
    """The group of parts that share a batch with no other part."""

    ALONE = "alone"


def share_nothing(pipe: Pipeline, inputs: Inputs, forward_params: Inputs) -> Hashable:
    """ALONE: each part is a batch, because the pipeline cannot batch the task, or padding would change its results."""
    return Sharing.ALONE


def equal_shapes(pipe: Pipeline, inputs: Inputs, forward_params: Inputs) -> Hashable:
    """The group of the parts whose tensors have equal shapes."""
    return tuple((name, _shape(value)[1:]) for name, value in sorted(inputs.items()))


def equal_but_for_padding(pipe: Pipeline, inputs: Inputs, forward_params: Inputs) -> Hashable:
    """The group of the parts whose tensors have equal shapes; the sequence length may differ if a mask marks the padding."""
    length = _shape(inputs.get("attention_mask"))[1:2]
    # A model that pads on the left and does not continue prompts counts positions from the padding on.
    is_shifted = pipe.tokenizer is not None and pipe.tokenizer.padding_side == "left" and not continues_prompts(pipe)
    if not length or is_shifted or (continues_prompts(pipe) and depends_on_prompt(pipe, forward_params)):
        return equal_shapes(pipe, inputs, forward_params)
    return tuple(
        (name, shape[2:] if shape[1:2] == length else shape[1:])
        for name, shape in ((name, _shape(value)) for name, value in sorted(inputs.items()))
    )


def same_texts(pipe: Pipeline, inputs: Inputs, forward_params: Inputs) -> Hashable:
    """The group of the parts with equal shapes and labels: zero-shot pipelines use the first item's labels for all items."""
    return equal_shapes(pipe, inputs, forward_params), inputs["text_inputs"][0]["input_ids"].numpy().tobytes()


def _shape(value: object) -> tuple[int, ...]:
    return tuple(getattr(value, "shape", ()))


def trim_tokens(*names: str) -> Callable[[Pipeline, Inputs, dict[str, Any], Inputs], dict[str, Any]]:
    """A function that cuts the named outputs, (1, tokens, ...), to the part's own tokens; without names, the first output."""

    def trim(pipe: Pipeline, inputs: Inputs, output: dict[str, Any], forward_params: Inputs) -> dict[str, Any]:
        length = _shape(inputs.get("input_ids"))[1:2]
        for name in names or list(output)[:1]:
            if length and output.get(name) is not None:
                output[name] = _cut(output[name], length[0], pipe.tokenizer.padding_side)
        return output

    return trim


def _cut(states: torch.Tensor, length: int, side: str) -> torch.Tensor:
    return states[:, -length:] if side == "left" else states[:, :length]
