"""Private names of transformers' models, and copies of a model that share its weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_shared_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model, with its own modules, buffers and settings, that shares the parameters of `model`.

    Raises:
        Exception: a module holds something that cannot be copied.
    """
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def frames_of(model: PreTrainedModel, samples: int) -> int | None:
    """How many output frames a speech model has for this many samples or feature frames; None if it has no method for that.

    Source: `_get_feat_extract_output_lengths` of models like Wav2Vec2, `_get_subsampling_output_length` of Parakeet.
    """
    import torch

    for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
        lengths = getattr(model, name, None)
        if lengths is not None:
            return int(lengths(torch.tensor([samples])))
    return None
