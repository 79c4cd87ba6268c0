"""Private names of transformers' generation, and names that differ between its versions.

Source: transformers/generation/utils.py and transformers/generation/configuration_utils.py.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from dray.pipelines.internals.pipelines import arguments_of_generate, generates

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, Pipeline, PreTrainedModel

Options = Mapping[str, Any]

CACHES = ("cache", "past_key_values")  # the cache among a model's inputs and outputs: since transformers 5.24, and before


def cache_name(model_kwargs: Mapping[str, Any]) -> str:
    """The name of the cache among these model inputs; it differs between versions of transformers."""
    return next((name for name in CACHES if name in model_kwargs), CACHES[0])


def continues_prompts(pipe: Pipeline) -> bool:
    """Whether the pipeline generates with a decoder-only model, whose outputs contain the prompt."""
    return generates(pipe) and pipe.tokenizer is not None and not pipe.model.config.is_encoder_decoder


def arguments(pipe: Pipeline, forward_params: Options) -> dict[str, Any]:
    """The arguments that the pipeline passes to `generate`, given the arguments of its forward."""
    nested = (forward_params.get(name) or {} for name in ("forward_params", "generate_kwargs"))
    flat = {name: value for part in (forward_params, *nested) for name, value in part.items()}
    ours = ("forward_params", "generate_kwargs", "prefix_length")
    return arguments_of_generate(pipe, {name: value for name, value in flat.items() if name not in ours})


def merged_config(pipe: Pipeline, forward_params: Options) -> GenerationConfig:
    """The generation config of a call: the model's own, with the call's arguments set."""
    handed = arguments(pipe, forward_params)
    config = copy.deepcopy(handed.pop("generation_config", None) or pipe.model.generation_config)
    config.update(**handed)
    return config


def depends_on_prompt(pipe: Pipeline, forward_params: Options) -> bool:
    """Whether limits of the length include the prompt, so that they would include its padding too."""
    config = merged_config(pipe, forward_params)
    return bool(config.min_length) or config.max_new_tokens is None


def refuse_unknown(model: PreTrainedModel, config: GenerationConfig | None, arguments: Options) -> None:
    """Raises ValueError or TypeError for arguments that belong neither to a generation config nor to the model."""
    _, others = model._prepare_generation_config(config, **arguments)
    model._validate_model_kwargs(others)


def processors_of(model: PreTrainedModel, config: GenerationConfig) -> LogitsProcessorList:
    """The logits processors of a generation config. Raises if one of them needs the prompt."""
    return model._get_logits_processor(config)


@contextlib.contextmanager
def one_more_processor(model: PreTrainedModel, processor: LogitsProcessor) -> Iterator[None]:
    """A context in which `generate` applies `processor` after all others."""
    from transformers import LogitsProcessorList

    original = model._get_logits_processor

    def with_processor(*args: object, **kwargs: object) -> LogitsProcessorList:
        return LogitsProcessorList([*original(*args, **kwargs), processor])

    model._get_logits_processor = with_processor
    try:
        yield
    finally:
        del model._get_logits_processor


def has_own_decoding(kind: type[PreTrainedModel]) -> bool:
    """Whether a model class overrides transformers' loop over tokens, or its update between two steps."""
    from transformers import GenerationMixin

    names = ("_sample", "_update_model_kwargs_for_generation")
    return any(getattr(kind, name) is not getattr(GenerationMixin, name) for name in names)


def decoding_loop(model: PreTrainedModel) -> Callable[..., torch.Tensor]:
    """The model's loop over tokens: (model, input_ids, processors, criteria, config, **model_kwargs) -> (rows, tokens)."""
    loop: Callable[..., torch.Tensor] = type(model)._sample
    return loop


def after_tokens(model: PreTrainedModel, model_kwargs: dict[str, Any], count: int) -> dict[str, Any]:
    """The model's inputs other than the tokens, updated for `count` more tokens of each row."""
    is_encoder_decoder = model.config.is_encoder_decoder
    updated: dict[str, Any] = model._update_model_kwargs_for_generation({}, model_kwargs, is_encoder_decoder, count)
    return updated


def knows_cached_tokens() -> bool:
    """Whether the number of tokens in the cache can be set; before transformers 5.18 the loop reads it from the mask."""
    from transformers import GenerationConfig

    return "_mask_length" in GenerationConfig.__annotations__


def set_known_tokens(config: GenerationConfig, count: int) -> None:
    """Sets that all but the last of `count` tokens are in the cache; the next loop then ignores the mask for that."""
    config._mask_length = count


def padding_token(config: GenerationConfig) -> int | None:
    """The token with which `generate` fills a row that has ended, from a config that it prepared; None if there is none."""
    token = config._pad_token_tensor
    return None if token is None else int(token)


def keep_rows(name: str, value: Any, rows: torch.Tensor) -> Any:  # noqa: ANN401  # a Cache or a ModelOutput
    """A cache or an encoder's output with only these `rows` of the batch, (rows,) indices; a cache is changed in place."""
    import torch

    if name in CACHES:
        value.batch_select_indices(rows)
        return value
    return type(value)({key: each[rows] if isinstance(each, torch.Tensor) else each for key, each in value.items()})
