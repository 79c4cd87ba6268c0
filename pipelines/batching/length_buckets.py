"""Pads the inputs of a compiled model to a few lengths, since torch.compile makes code for each length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching.collating import collate
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.batching.parts import Inputs, Part
from dray.pipelines.internals.compiling import mark_sequences

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline

LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)  # tokens
GRAPHS = 64  # compiled graphs that torch keeps of one model; its default of 8 is too few for LENGTHS


def has_buckets(pipe: Pipeline) -> bool:
    """Whether the model takes only texts, which may be padded, and does not generate. For other models torch generalises."""
    others = (pipe.feature_extractor, pipe.image_processor, pipe.processor)
    if pipe.tokenizer is None or any(others) or pipe.model.can_generate():
        return False
    return bool(pipe.tokenizer.padding_side == "right")  # with padding on the left, positions would include the padding


def compile_model(pipe: Pipeline) -> None:
    """Compiles the pipeline's model with torch; a model of texts once for each of LENGTHS, for any number of texts."""
    if not has_buckets(pipe):
        pipe.model.compile()
        return
    import torch

    # Only `forward` is compiled, and not the hooks, which `model.compile` would include.
    pipe.model.forward = torch.compile(pipe.model.forward, recompile_limit=GRAPHS)
    pipe.model.register_forward_pre_hook(_mark, with_kwargs=True)


def _mark(model: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Marks tensors of one of LENGTHS for the compiler. It is a hook right before `forward`: copies of tensors lose marks."""
    import torch

    for value in named.values():
        if isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] in LENGTHS:
            mark_sequences(value)


def bucket(pipe: Pipeline, inputs: Mapping[str, Any]) -> int:
    """The length that this text is padded to; 0 if it has no attention mask or is too long."""
    length = _length(inputs)
    most = getattr(pipe.model.config, "max_position_embeddings", None) or 0
    return next((each for each in LENGTHS if 0 < length <= each and (most <= 0 or each <= most)), 0)


def collate_bucketed(pipe: Pipeline, parts: Sequence[Part]) -> tuple[Inputs, int]:
    """The padded batch of the parts; its length is the largest of the parts' buckets.

    Returns:
        The inputs, and the length they are padded to; 0 if they are padded as in `collate`, to the longest part.
    """
    buckets = [bucket(pipe, part.inputs) for part in parts]
    if parts[0].group is Sharing.ALONE or not all(buckets):
        return collate(pipe, parts), 0
    length = max(buckets)
    longest = parts[buckets.index(length)]
    # transformers pads to the longest text: so a text of the wanted length is added, and removed from the batch.
    filled = collate(pipe, [*parts, Part(_stretched(longest.inputs, length), length)])
    return {name: value[:-1] for name, value in filled.items()}, length  # type: ignore[index]


def _stretched(inputs: Inputs, length: int) -> Inputs:
    """The inputs of one text, repeated along its tokens up to `length`."""
    own = _length(inputs)

    def longer(value: Any) -> Any:  # noqa: ANN401  # tensors, and what goes with them
        if getattr(value, "shape", ())[1:2] != (own,):
            return value
        return value.repeat(1, -(-length // own), *[1] * (value.ndim - 2))[:, :length]

    return {name: longer(value) for name, value in inputs.items()}


def _length(inputs: Mapping[str, Any]) -> int:
    """The number of tokens of one text; 0 if there is no attention mask."""
    shapes = [tuple(getattr(inputs.get(name), "shape", ())) for name in ("input_ids", "attention_mask")]
    return int(shapes[0][1]) if shapes[0] == shapes[1] and len(shapes[0]) == 2 else 0
