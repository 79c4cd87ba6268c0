"""Private names of transformers' models."""

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
