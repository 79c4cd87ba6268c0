"""Private names of transformers' auto classes: which models they have, and how to make models without weights.

Source: transformers/models/auto/auto_factory.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def models_of(auto_class: Any, config: PreTrainedConfig) -> tuple[type, ...]:  # noqa: ANN401  # an auto class
    """The model classes of an auto class for this kind of config, the usual one first; empty if there are none."""
    if type(config) not in auto_class._model_mapping:
        return ()
    models = auto_class._model_mapping[type(config)]
    return tuple(models) if isinstance(models, (tuple, list)) else (models,)


def maker(model_class: Any) -> Callable[..., Any]:  # noqa: ANN401  # an auto class or a model class
    """A function that makes a model from a config, without weights and without running the model's own code."""
    if not hasattr(model_class, "from_config"):  # a model class
        made: Callable[..., Any] = model_class._from_config
        return made
    return functools.partial(model_class.from_config, trust_remote_code=False)
