"""Text generation with transformers' continuous batching: the next prompt starts as soon as a sequence has ended."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching.packing import is_out_of_memory
from dray.pipelines.batching.parts import Output, Part
from dray.pipelines.internals.generation import merged_config, processors_of

if TYPE_CHECKING:
    from transformers import Pipeline

logger = logging.getLogger(__name__)

PLAIN = {"max_new_tokens", "do_sample", "eos_token_id", "pad_token_id", "bos_token_id", "use_cache"}  # arguments it takes
CPU_REQUESTS, PAGE = 32, 256  # sequences that a CPU's cache holds, and tokens in a page of it


class Unsupported(Exception):
    """The model or device does not support continuous batching; ordinary batches give the same results."""


def is_plain(pipe: Pipeline, forward_params: Mapping[str, Any]) -> bool:
    """Whether continuous batching gives the same as `generate` for these arguments of forward.

    It does not for sampling: all rows draw from one stream of random numbers, so that a row's tokens would depend on its batch.
    """
    config = merged_config(pipe, forward_params)
    if config.do_sample or (config.num_beams or 1) > 1 or (config.num_return_sequences or 1) > 1 or set(forward_params) - PLAIN:
        return False
    try:
        processors = processors_of(pipe.model, config)
    except Exception:  # some need to know the prompt
        return False
    return not processors and not config.stop_strings and config.max_new_tokens is not None


def generate(pipe: Pipeline, parts: Sequence[Part], forward_params: Mapping[str, Any]) -> list[Output]:
    """The output of the pipeline's `forward` for each part.

    Raises:
        Unsupported: the model does not support continuous batching.
    """
    try:
        return _generated(pipe, parts, forward_params)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        logger.warning("continuous batching does not work with this model; using ordinary batches: %s", error)
        raise Unsupported from error


def _generated(pipe: Pipeline, parts: Sequence[Part], forward_params: Mapping[str, Any]) -> list[Output]:
    import torch

    prompts = [part.inputs["input_ids"][0].tolist() for part in parts]  # type: ignore[index]
    config = merged_config(pipe, forward_params)
    results = pipe.model.generate_batch(
        prompts,
        generation_config=config,
        continuous_batching_config=_cache_capacity(pipe, prompts, config.max_new_tokens),
        max_new_tokens=config.max_new_tokens,
        progress_bar=False,
    )
    outputs = []
    for part, result in zip(parts, results.values(), strict=False):
        if result.error is not None:
            raise RuntimeError(f"continuous batching: {result.error}")
        new = torch.tensor([[*part.inputs["input_ids"][0].tolist(), *result.generated_tokens]])  # type: ignore[index]
        outputs.append(
            {"generated_sequence": new[None], "input_ids": part.inputs["input_ids"], "prompt_text": part.inputs["prompt_text"]}
        )
    if len(outputs) != len(parts):
        raise RuntimeError(f"continuous batching gave {len(outputs)} results for {len(parts)} prompts")
    return outputs


def _cache_capacity(pipe: Pipeline, prompts: Sequence[Sequence[int]], new_tokens: int) -> Any:  # noqa: ANN401  # untyped
    """The size of the cache on a CPU; None on accelerators. transformers' default is all free memory, too much on a CPU."""
    from transformers.generation.configuration_utils import ContinuousBatchingConfig

    if pipe.device.type != "cpu":
        return None
    pages = math.ceil((max(map(len, prompts)) + new_tokens) / PAGE) + 1
    return ContinuousBatchingConfig(num_blocks=pages * min(len(prompts), CPU_REQUESTS), max_batch_tokens=1024)
