"""Shortens and normalizes embeddings for clients."""

from __future__ import annotations

from typing import Any

import numpy as np

from dray.pipelines.errors import RequestError

LEAST = 1e-12  # the smallest length by which a vector is divided


def array(prediction: Any) -> np.ndarray:  # noqa: ANN401  # a tensor, an array or nested lists
    """A prediction as a float32 array; NumPy has no bfloat16."""
    return np.asarray(prediction.float() if hasattr(prediction, "float") else prediction, np.float32)


def shortened(vectors: np.ndarray, dimensions: int) -> np.ndarray:
    """The first `dimensions` of vectors (..., size), scaled to length 1, as in OpenAI's API. Raises RequestError."""
    if not 0 < dimensions <= vectors.shape[-1]:
        raise RequestError(f"dimensions: the model gives {vectors.shape[-1]}")
    return normalized(vectors[..., :dimensions])


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., size), scaled to length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, LEAST))
