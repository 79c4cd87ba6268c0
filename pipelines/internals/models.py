"""Private names of transformers' models, and copies of a model that share its weights."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def with_shared_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A model of modules, buffers and settings of its own, but with the parameters of `model`: it takes little memory.

    Raises:
        Exception: a module holds something that cannot be copied.
    """
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def frames_of(model: PreTrainedModel, samples: int) -> int | None:
    """How many frames a speech model makes of that many samples or feature frames; None where it does not say.

    Source: `_get_feat_extract_output_lengths` of Wav2Vec2 and its like, `_get_subsampling_output_length` of Parakeet's.
    """
    import torch

    for name in ("_get_feat_extract_output_lengths", "_get_subsampling_output_length"):
        lengths = getattr(model, name, None)
        if lengths is not None:
            return int(lengths(torch.tensor([samples])))
    return None
