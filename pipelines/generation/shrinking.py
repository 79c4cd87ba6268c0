"""Batches of generated text that shrink: rows that have ended leave the batch, and the others continue.

`generate` computes every row until the longest has ended, which is mostly padding if answers have 1 to 120 tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dray.pipelines.generation import sampling
from dray.pipelines.internals.generation import (
    CACHES,
    after_tokens,
    arguments,
    cache_name,
    decoding_loop,
    has_own_decoding,
    keep_rows,
    knows_cached_tokens,
    merged_config,
    padding_token,
    set_known_tokens,
)

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, LogitsProcessorList, Pipeline, PreTrainedModel, StoppingCriteriaList

LEAVE = 1 / 4  # of the rows: when this share has ended, they leave; each time the cache of the others is copied
ROWS = {"attention_mask", "decoder_attention_mask", "position_ids", "decoder_position_ids"}  # (rows, tokens)
REST = {*CACHES, "encoder_outputs", "use_cache", "logits_to_keep", "output_attentions", "output_hidden_states"}
CHANGING = ("dynamic", "longrope")  # rotary positions that are scaled by the longest row of the batch
PROCESSORS = {  # which treat each row separately
    "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "MinPLogitsWarper", "TypicalLogitsWarper",
    "EpsilonLogitsWarper", "EtaLogitsWarper", "LogitNormalization", "InfNanRemoveLogitsProcessor",
    "MinLengthLogitsProcessor", "MinNewTokensLengthLogitsProcessor", "RepetitionPenaltyLogitsProcessor",
    "NoRepeatNGramLogitsProcessor", "NoBadWordsLogitsProcessor", "SequenceBiasLogitsProcessor",
    "SuppressTokensLogitsProcessor", "SuppressTokensAtBeginLogitsProcessor", "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor", "ExponentialDecayLengthPenalty", "WhisperTimeStampLogitsProcessor",
}  # fmt: skip


def with_shrinking(pipe: Pipeline, forward_params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments of the pipeline's forward with `decode` as custom_generate; unchanged if that would change results.

    `generate` still prepares everything, and its own loop takes every step.
    """
    from transformers.generation.configuration_utils import GenerationMode

    if not _is_plain(pipe.model):
        return forward_params
    given = arguments(pipe, forward_params)
    mode = merged_config(pipe, forward_params).get_generation_mode(given.get("assistant_model"))
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE) or given.keys() & {
        "streamer",
        "tokenizer",
        "custom_generate",
    }:
        return forward_params
    return sampling.with_arguments(pipe, forward_params, {"custom_generate": decode})


def _is_plain(model: PreTrainedModel) -> bool:
    """Whether the model is text-only, decodes with transformers' own loop, and rows do not depend on the longest row."""
    from transformers import GenerationMixin
    from transformers.models.whisper.generation_whisper import WhisperGenerationMixin

    kind, config = type(model), model.config
    is_known = kind.generate in (GenerationMixin.generate, WhisperGenerationMixin.generate)
    given = getattr(config, "rope_parameters", None) or {}
    ropes = [given, *(each for each in given.values() if isinstance(each, Mapping))]
    is_fixed = not any(rope.get("rope_type") in CHANGING for rope in ropes)
    may_continue = knows_cached_tokens() or not config.is_encoder_decoder  # the mask of such a decoder is not kept
    return bool(may_continue and not has_own_decoding(kind) and is_known and is_fixed and config.get_text_config() is config)


def decode(
    model: PreTrainedModel,
    input_ids: torch.Tensor,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    generation_config: GenerationConfig,
    **model_kwargs: Any,  # noqa: ANN401  # whatever the model takes
) -> torch.Tensor:
    """Replaces `GenerationMixin._sample`, and calls it until every row has ended.

    Returns:
        Its result, (rows, tokens): prompts with their answers; rows that ended earlier are padded.
    """
    import torch

    step = decoding_loop(model)
    if not _may_shrink(input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs):
        return step(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs)
    rows = torch.arange(len(input_ids))
    ended: dict[int, torch.Tensor] = {}
    while True:
        early = _early(stopping_criteria, max(1, int(len(rows) * LEAVE)))
        length = input_ids.shape[1]
        input_ids = step(model, input_ids, logits_processor, early, generation_config, **model_kwargs)
        for place in early[0].ended.nonzero().flatten().tolist():
            ended[int(rows[place])] = input_ids[place]
        left = (~early[0].ended).nonzero().flatten()
        if not len(left):
            break
        grown = after_tokens(model, model_kwargs, input_ids.shape[1] - length)
        model_kwargs = {name: _rows(name, value, left) for name, value in grown.items()}
        rows, input_ids = rows[left], input_ids[left]
        set_known_tokens(generation_config, input_ids.shape[1])
        for processor in logits_processor:
            _leave(processor, left)
    longest = max(map(len, ended.values()))
    padding = padding_token(generation_config)
    padded = [torch.nn.functional.pad(ended[row], (0, longest - len(ended[row])), value=padding) for row in range(len(ended))]
    return torch.stack(padded)


def _may_shrink(
    input_ids: torch.Tensor,
    processors: LogitsProcessorList,
    criteria: StoppingCriteriaList,
    config: GenerationConfig,
    model_kwargs: Mapping[str, Any],
) -> bool:
    """Whether rows can be removed from the cache, masks and processors of this batch, and rows that have ended are padded."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer, EncoderDecoderCache

    cache: Any = model_kwargs.get(cache_name(model_kwargs))
    caches = [cache.self_attention_cache, cache.cross_attention_cache] if type(cache) is EncoderDecoderCache else [cache]
    is_known = {name for name, value in model_kwargs.items() if value is not None} <= ROWS | REST
    layers = {DynamicLayer, DynamicSlidingWindowLayer}
    has_rows = all(model_kwargs[name].dim() == 2 for name in ROWS if model_kwargs.get(name) is not None)
    own_random = any(hasattr(processor, "keep") for processor in processors)
    return (
        len(input_ids) > 1
        and is_known
        and has_rows
        and bool(model_kwargs.get("use_cache"))
        and all(type(each) is DynamicCache and {type(layer) for layer in each.layers} <= layers for each in caches)
        and all(type(each).__name__ in PROCESSORS or hasattr(each, "keep") for each in processors)
        and (own_random or not config.do_sample)
        and any(hasattr(each, "eos_token_id") for each in criteria)
        and padding_token(config) is not None
        and not config.return_dict_in_generate
    )


def _rows(name: str, value: Any, left: torch.Tensor) -> Any:  # noqa: ANN401  # of every kind
    """The value of one of the model's arguments for the rows `left`."""
    if name in (*CACHES, "encoder_outputs"):
        return keep_rows(name, value, left)
    return value[left] if name in ROWS and value is not None else value


def _leave(processor: Any, left: torch.Tensor) -> None:  # noqa: ANN401  # any LogitsProcessor
    """Removes all rows but those `left` from a processor's state."""
    import torch

    if hasattr(processor, "keep"):
        processor.keep(left.tolist())
    if isinstance(getattr(processor, "prompt_ignore_length", None), torch.Tensor):  # of a penalty for repetition
        processor.prompt_ignore_length = processor.prompt_ignore_length[left]


def _early(criteria: StoppingCriteriaList, most: int) -> StoppingCriteriaList:
    """Criteria that end all rows when `most` have ended by `criteria`; `ended` of the first one says which rows have."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Early(StoppingCriteria):  # type: ignore[misc]  # has no types
        ended = torch.zeros((), dtype=torch.bool)
        eos_token_id = None  # transformers pads rows that have ended if a criterion has this attribute

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
            self.ended = self.ended | criteria(input_ids, scores, **kwargs)
            return self.ended | bool(self.ended.sum() >= most)

    return StoppingCriteriaList([Early()])
