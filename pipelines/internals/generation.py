"""Private names of transformers' generation."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import GenerationConfig, Pipeline


Options = Mapping[str, Any]


def continues_prompts(pipe: Pipeline) -> bool:
    """Whether the pipeline generates by a decoder alone, whose answers follow their prompts."""
    generates = pipe._pipeline_calls_generate and pipe.model.can_generate()
    return bool(generates and pipe.tokenizer is not None and not pipe.model.config.is_encoder_decoder)


def arguments(pipe: Pipeline, during: Options) -> dict[str, Any]:
    """What the pipeline hands to `generate`, given the arguments of its forward."""
    flat = {**during, **(during.get("forward_params") or {}), **(during.get("generate_kwargs") or {})}
    ours = ("forward_params", "generate_kwargs", "prefix_length")
    handed: dict[str, Any] = pipe._prepare_generate_kwargs({key: value for key, value in flat.items() if key not in ours})
    return handed


def merged_config(pipe: Pipeline, during: Options) -> GenerationConfig:
    """The generation config that results: the model's own, under the call's arguments."""
    handed = arguments(pipe, during)
    config = copy.deepcopy(handed.pop("generation_config", None) or pipe.model.generation_config)
    config.update(**handed)
    return config


def depends_on_prompt(pipe: Pipeline, during: Options) -> bool:
    """Whether lengths are limited with the prompt counted in, so that padding before it would count too."""
    config = merged_config(pipe, during)
    return bool(config.min_length) or config.max_new_tokens is None
