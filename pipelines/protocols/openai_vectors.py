"""OpenAI's embeddings: makes items of requests, and answers of predictions."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dray.pipelines.errors import RequestError
from dray.pipelines.phases.item import Item
from dray.pipelines.protocols import vectors
from dray.pipelines.protocols.openai import MOST_INPUTS, Embed

if TYPE_CHECKING:
    from transformers import Pipeline


def embedding_items(pipe: Pipeline, request: Embed) -> list[Item]:
    """The items, one for each text. Raises RequestError."""
    given: list[Any] = [request.input] if isinstance(request.input, str) else list(request.input)
    if given and isinstance(given[0], int):
        given = [given]
    if not 0 < len(given) <= MOST_INPUTS:
        raise RequestError(f"input: expected 1 to {MOST_INPUTS} texts, got {len(given)}")
    texts = [text if isinstance(text, str) else _decoded(pipe, text) for text in given]
    return [Item({"text": text}) for text in texts]


def _decoded(pipe: Pipeline, tokens: Sequence[int]) -> str:
    if not all(0 <= token < len(pipe.tokenizer) for token in tokens):
        raise RequestError("input: no such token; send the texts")
    return str(pipe.tokenizer.decode(tokens))


def embeddings(request: Embed, name: str, predictions: Sequence[Any], tokens: int) -> dict[str, Any]:
    """The answer. If a prediction has a vector for each token, their mean is used."""
    data = []
    for index, prediction in enumerate(predictions):
        vector = vectors.array(prediction)
        vector = vector.reshape(-1, vector.shape[-1]).mean(0)
        if request.dimensions is not None:
            vector = vectors.shortened(vector, request.dimensions)
        kept: object = vector.tolist()
        if request.encoding_format == "base64":
            kept = base64.b64encode(vector.astype("<f4").tobytes()).decode()
        data.append({"object": "embedding", "index": index, "embedding": kept})
    return {"object": "list", "data": data, "model": name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
