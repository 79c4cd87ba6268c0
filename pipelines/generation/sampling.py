"""Samples each row of a batch with the row's own seed, and cuts its sequences to those it would have alone."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dray.pipelines.internals.generation import (
    Options,
    arguments,
    continues_prompts,
    merged_config,
    one_more_processor,
    refuse_unknown,
)
from dray.pipelines.internals.pipelines import generates, nests_arguments_of_generate

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline


BEYOND = 4  # longest prompt, in multiples of the model's positions: attention's memory grows with the square of the length


def prepare(pipe: Pipeline) -> None:
    """Sets up the tokenizer for batches of prompts: pads on the left, with the end token if there is no padding token."""
    if generates(pipe) and pipe.tokenizer is not None:
        if pipe.tokenizer.pad_token_id is None:
            pipe.tokenizer.pad_token = pipe.tokenizer.eos_token
        if continues_prompts(pipe):
            pipe.tokenizer.padding_side = "left"


def refuse_endless(pipe: Pipeline, inputs: Mapping[str, Any]) -> None:
    """Raises ValueError for a prompt of more than BEYOND times the model's positions."""
    known = getattr(pipe.model.config.get_text_config(), "max_position_embeddings", None)
    tokens = inputs["input_ids"].shape[-1]
    if known and tokens > BEYOND * known:
        raise ValueError(f"the prompt has {tokens} tokens, and the model knows {known} positions")


def check(pipe: Pipeline, forward_params: Options) -> None:
    """Raises what `generate` would raise for these arguments, ValueError or TypeError; needs no weights."""
    from transformers import GenerationMixin

    own = type(pipe.model).generate is not GenerationMixin.generate
    handed = arguments(pipe, forward_params)
    if not own:
        named = inspect.signature(pipe.model.generate).parameters.keys() | {"tokenizer", "assistant_tokenizer"}
        config = handed.pop("generation_config", None)
        rest = {key: value for key, value in handed.items() if key not in named}
        refuse_unknown(pipe.model, config, rest)
    merged = merged_config(pipe, forward_params)
    merged.validate()
    if continues_prompts(pipe) and merged.return_dict_in_generate:
        raise ValueError("return_dict_in_generate gives tensors that have no place in the output; leave it out")


def samples(pipe: Pipeline, forward_params: Options) -> bool:
    """Whether generation draws random tokens, given the arguments of the pipeline's forward."""
    if not generates(pipe):
        return False
    temperature = (forward_params.get("generate_kwargs") or {}).get("temperature")
    if isinstance(temperature, (list, tuple)):  # Whisper samples at the next temperature when an answer is bad
        return True
    handed = arguments(pipe, forward_params)
    config = handed.get("generation_config") or pipe.model.generation_config
    return bool(handed.get("do_sample", config.do_sample))


def is_prefix_of_longer(pipe: Pipeline, forward_params: Options) -> bool:
    """Whether a longer answer begins with the tokens of a shorter one, so that it can be cut."""
    config = merged_config(pipe, forward_params)
    no_end = config.forced_eos_token_id is None and config.exponential_decay_length_penalty is None
    return bool((config.num_beams or 1) == 1 and no_end)


@contextlib.contextmanager
def seeded(pipe: Pipeline, seeds: Sequence[int]) -> Iterator[None]:
    """A context in which `generate` draws each row's tokens with the row's own random numbers, in any batch.

    The warpers (temperature, top_k, top_p ...) apply as usual; from the distribution that they leave, one token is drawn by
    inverting the cumulative distribution.
    """
    with one_more_processor(pipe.model, _draw(seeds)):
        yield


def _draw(seeds: Sequence[int]) -> Any:  # noqa: ANN401  # a LogitsProcessor, whose class needs transformers
    import torch
    from transformers import LogitsProcessor

    class Draw(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped
        """Draws one token per row and masks all others, so that `generate` must choose it."""

        def __init__(self) -> None:
            self._random: list[np.random.Generator] = []

        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            if not self._random:  # an item has one row for each return sequence
                several = len(scores) // len(seeds)
                self._random = [np.random.default_rng([seed, number]) for seed in seeds for number in range(several)]
            drawn = torch.tensor([random.random() for random in self._random], dtype=torch.float64, device=scores.device)
            upto = scores.double().softmax(-1).cumsum(-1)
            token = torch.searchsorted(upto, drawn[:, None] * upto[:, -1:], right=True)
            token = token.clamp(max=scores.shape[-1] - 1)
            return torch.full_like(scores, -torch.inf).scatter(-1, token, 0.0)

        def keep(self, rows: Sequence[int]) -> None:
            """Keeps only these rows: the others have left the batch."""
            self._random = [self._random[row] for row in rows]

    return Draw()


def new_tokens(forward_params: Options) -> int | None:
    """`max_new_tokens` among the arguments of the pipeline's forward; None if it is not there."""
    number = forward_params.get("max_new_tokens", (forward_params.get("generate_kwargs") or {}).get("max_new_tokens"))
    return number if isinstance(number, int) else None


def with_arguments(pipe: Pipeline, forward_params: Options, added: Options) -> dict[str, Any]:
    """The arguments of the pipeline's forward, with `added` in the place of the arguments of `generate`."""
    if nests_arguments_of_generate(pipe):
        return {**forward_params, "generate_kwargs": {**(forward_params.get("generate_kwargs") or {}), **added}}
    return {**forward_params, **added}


def with_new_tokens(forward_params: Options, number: int | None) -> dict[str, Any]:
    """The arguments with another `max_new_tokens`; unchanged if they have none."""
    if "max_new_tokens" in forward_params:
        return {**forward_params, "max_new_tokens": number}
    if "max_new_tokens" in (forward_params.get("generate_kwargs") or {}):
        return {**forward_params, "generate_kwargs": {**forward_params["generate_kwargs"], "max_new_tokens": number}}
    return dict(forward_params)


def shorten(inputs: Mapping[str, Any], output: dict[str, Any], number: int | None) -> dict[str, Any]:
    """The output of one part with its trimmed sequences cut to `number` new tokens; unchanged if that is None."""
    own = inputs.get("input_ids", inputs.get("decoder_input_ids"))
    if number is not None and own is not None and hasattr(output["generated_sequence"], "shape"):
        output["generated_sequence"] = output["generated_sequence"][..., : own.shape[1] + number]
    return output


def trim(pipe: Pipeline, inputs: Mapping[str, Any], output: dict[str, Any], forward_params: Options) -> dict[str, Any]:
    """The output of one part without the padding of its sequences, (1, ..., tokens), and of its prompt, (1, tokens)."""
    sequences, prompt = output["generated_sequence"], output["input_ids"]
    own = inputs.get("input_ids", inputs.get("decoder_input_ids"))
    if prompt is None or own is None or not hasattr(sequences, "shape"):
        return output
    start = prompt.shape[1] - own.shape[1]
    if start and not pipe.model.config.is_encoder_decoder:
        sequences = sequences[..., start:]
        output["input_ids"] = prompt[:, start:]
    first = 0 if pipe.model.config.is_encoder_decoder else own.shape[1]
    output["generated_sequence"] = sequences[..., : first + _longest(pipe, sequences[..., first:], forward_params)]
    return output


def _longest(pipe: Pipeline, generated: torch.Tensor, forward_params: Options) -> int:
    """The number of tokens of an item's longest sequence, with the token that ended it."""
    import torch

    rows = generated.reshape(-1, generated.shape[-1])
    ends = merged_config(pipe, forward_params).eos_token_id
    ended = torch.isin(rows, torch.tensor([ends] if not isinstance(ends, list) else ends)) if ends is not None else rows < 0
    pad = getattr(pipe.tokenizer, "pad_token_id", None)
    lengths = []
    for row, is_end in zip(rows, ended, strict=True):
        kept = torch.nonzero(row != pad) if not is_end.any() else torch.nonzero(is_end)[:1]
        lengths.append(int(kept[-1]) + 1 if len(kept) else 0)
    return max(lengths, default=0)
