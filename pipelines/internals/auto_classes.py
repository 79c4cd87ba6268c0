"""Private names of transformers' auto classes: which models they hold, and how these are made without weights.

Source: transformers/models/auto/auto_factory.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


def models_of(auto_class: Any, config: PreTrainedConfig) -> tuple[type, ...]:  # noqa: ANN401  # an auto class
    """The model classes that an auto class has for this kind of config, the usual one first; none where it has none."""
    if type(config) not in auto_class._model_mapping:
        return ()
    found = auto_class._model_mapping[type(config)]
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def maker(model_class: Any) -> Callable[..., Any]:  # noqa: ANN401  # an auto class or a model class
    """What makes a model from a config, without weights and without code of others."""
    if not hasattr(model_class, "from_config"):  # a model class
        made: Callable[..., Any] = model_class._from_config
        return made
    return functools.partial(model_class.from_config, trust_remote_code=False)
