"""Texts that are longer than a model's table of positions: on a CPU an index error, on a GPU the end of the process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dray.pipelines.tasks.task import Task

if TYPE_CHECKING:
    from transformers import Pipeline

TABLES = ("position_embeddings", "embed_positions", "wpe")  # names of these tables in the models of transformers


def known(pipe: Pipeline, task: Task) -> int | None:
    """Tokens that a text may have; None where no table of learned positions bounds it."""
    from torch.nn import Embedding

    if not task.bounded_by_positions:
        return None
    for name, module in pipe.model.named_modules():
        if isinstance(module, Embedding) and name.rpartition(".")[2] in TABLES:
            offset = getattr(
                module, "offset", 0 if module.padding_idx is None else module.padding_idx + 1
            )  # of the first token
            return int(module.num_embeddings) - int(offset)
    return None


def refuse_longer(inputs: Mapping[str, Any], most: int | None) -> None:
    """Raises ValueError for the model's inputs of a text that has more tokens than that."""
    tokens = inputs["input_ids"].shape[-1] if most is not None and "input_ids" in inputs else 0
    if most is not None and tokens > most:
        raise ValueError(
            f"the text has {tokens} tokens, and the model knows {most} positions; have it cut off: truncation: true"
        )
