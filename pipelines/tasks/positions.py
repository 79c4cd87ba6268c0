"""Refuses texts that are longer than a model's table of positions: they raise on a CPU, and end the process on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import Pipeline

TABLES = ("position_embeddings", "embed_positions", "wpe")  # names of these tables in the models of transformers


def known(pipe: Pipeline, task: Task) -> int | None:
    """The most tokens that a text may have; None where no table of learned positions limits them."""
    from torch.nn import Embedding

    if not task.bounded_by_positions:
        return None
    for name, module in pipe.model.named_modules():
        if isinstance(module, Embedding) and name.rpartition(".")[2] in TABLES:
            # the position of the first token
            offset = getattr(module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1)
            return int(module.num_embeddings) - int(offset)
    return None


def refuse_longer(inputs: Mapping[str, Any], most: int | None) -> None:
    """Raises ValueError where the text of these model inputs has more than `most` tokens."""
    tokens = inputs["input_ids"].shape[-1] if most is not None and "input_ids" in inputs else 0
    if most is not None and tokens > most:
        raise ValueError(
            f"the text has {tokens} tokens, and the model knows {most} positions; set truncation: true to cut it off"
        )
