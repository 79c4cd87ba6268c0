"""Input shapes for a compiled model: torch.compile makes code for each length it meets, so there may be only a few."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.batching import Inputs, Part, collate
from pipelines.padding import Sharing

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline

LENGTHS = (16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)  # tokens
GRAPHS = 64  # that torch keeps of one model; its own limit, 8, is for shapes that come by chance


def has_buckets(pipe: Pipeline) -> bool:
    """Whether the model reads texts, at once and not token by token; what others are given is for torch to generalise from."""
    others = (pipe.feature_extractor, pipe.image_processor, pipe.processor)
    return pipe.tokenizer is not None and not any(others) and not pipe.model.can_generate()


def compile_model(pipe: Pipeline) -> None:
    """Has torch compile the pipeline's model: where it reads texts, once for each of LENGTHS, for any number of them."""
    # A second length would otherwise make it a variable, and the code slower.
    pipe.model.compile(**{"dynamic": False, "recompile_limit": GRAPHS} if has_buckets(pipe) else {})


def collate_bucketed(pipe: Pipeline, parts: Sequence[Part]) -> tuple[Inputs, int]:
    """The parts as one model input whose sequences, where they have a mask, are as long as one of LENGTHS.

    Returns:
        The inputs, and the length they have been padded to; 0 where it is that of the longest part, as in `collate`.
    """
    length, longest = target(pipe, parts)
    if not length:
        return collate(pipe, parts), 0
    inputs = collate(pipe, [*parts, Part(stretched(parts[longest].inputs, length), length)])
    without: Any = {name: value[:-1] for name, value in inputs.items()}  # type: ignore[index]
    return {name: _dynamic(value) if _is_tensor(value) else value for name, value in without.items()}, length


def target(pipe: Pipeline, parts: Sequence[Part]) -> tuple[int, int]:
    """(the length that these texts are padded to, the longest one's place); (0, 0) for what has no mask or fits none."""
    lengths = [_length(part.inputs) for part in parts]
    if parts[0].group is Sharing.ALONE or not all(lengths):
        return 0, 0
    longest = max(range(len(parts)), key=lengths.__getitem__)
    most = getattr(pipe.model.config, "max_position_embeddings", None) or LENGTHS[-1]
    fitting = [length for length in LENGTHS if lengths[longest] <= length <= most]
    return (fitting[0], longest) if fitting else (0, 0)


def stretched(inputs: Inputs, length: int) -> Inputs:
    """The inputs of one text, repeated along its tokens up to `length`."""
    own = _length(inputs)

    def longer(value: Any) -> Any:  # noqa: ANN401  # tensors, and what goes with them
        if not _is_tensor(value) or value.shape[1:2] != (own,):
            return value
        times = -(-length // own)
        return value.repeat(1, times, *[1] * (value.ndim - 2))[:, :length]

    return {name: longer(value) for name, value in inputs.items()}


def _length(inputs: Inputs) -> int:
    """Tokens of one text; 0 where no mask says which of them are padding."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if not (_is_tensor(ids) and _is_tensor(mask)) or ids.shape != mask.shape or ids.ndim != 2:  # type: ignore[attr-defined]
        return 0
    return int(ids.shape[1])  # type: ignore[attr-defined]


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)


def _dynamic(value: torch.Tensor) -> torch.Tensor:
    import torch

    torch._dynamo.maybe_mark_dynamic(value, 0)
    return value
