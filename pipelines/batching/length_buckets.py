"""Input shapes for a compiled model: torch.compile makes code for each length it meets, so there may be only a few."""

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
GRAPHS = 64  # that torch keeps of one model; its own limit, 8, is for shapes that come by chance


def has_buckets(pipe: Pipeline) -> bool:
    """Whether the model reads texts that may be padded, at once and not token by token; for others torch generalises."""
    others = (pipe.feature_extractor, pipe.image_processor, pipe.processor)
    if pipe.tokenizer is None or any(others) or pipe.model.can_generate():
        return False
    return bool(pipe.tokenizer.padding_side == "right")  # otherwise positions would be counted from the padding on


def compile_model(pipe: Pipeline) -> None:
    """Has torch compile the pipeline's model: where it reads texts, once for each of LENGTHS, for any number of them."""
    if not has_buckets(pipe):
        pipe.model.compile()
        return
    import torch

    # Its hooks stay outside of what is compiled.
    pipe.model.forward = torch.compile(pipe.model.forward, recompile_limit=GRAPHS)
    pipe.model.register_forward_pre_hook(_mark, with_kwargs=True)


def _mark(model: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
    """Marks sequences of one of LENGTHS for the compiler, at the last moment: a copied tensor has lost its marks."""
    import torch

    for value in named.values():
        if isinstance(value, torch.Tensor) and value.ndim >= 2 and value.shape[1] in LENGTHS:
            mark_sequences(value)


def bucket(pipe: Pipeline, inputs: Mapping[str, Any]) -> int:
    """The length that this text will be padded to; 0 where no mask would tell the model, or where it is too long."""
    length = _length(inputs)
    most = getattr(pipe.model.config, "max_position_embeddings", None) or 0
    return next((each for each in LENGTHS if 0 < length <= each and (most <= 0 or each <= most)), 0)


def collate_bucketed(pipe: Pipeline, parts: Sequence[Part]) -> tuple[Inputs, int]:
    """The parts as one model input whose sequences are as long as the longest of the parts' buckets.

    Returns:
        The inputs, and the length they have been padded to; 0 where it is that of the longest part, as in `collate`.
    """
    buckets = [bucket(pipe, part.inputs) for part in parts]
    if parts[0].group is Sharing.ALONE or not all(buckets):
        return collate(pipe, parts), 0
    length = max(buckets)
    longest = parts[buckets.index(length)]
    # transformers' own rules pad to the longest; so one is put there that is as long as it should be, and taken away again.
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
    """Tokens of one text; 0 where no mask says which of them are padding."""
    shapes = [tuple(getattr(inputs.get(name), "shape", ())) for name in ("input_ids", "attention_mask")]
    return int(shapes[0][1]) if shapes[0] == shapes[1] and len(shapes[0]) == 2 else 0
