"""Streams generated text: each row of a batch has its own callback, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dray.pipelines.batching.parts import TextCallback
from dray.pipelines.generation import sampling
from dray.pipelines.internals.generation import merged_config

if TYPE_CHECKING:
    import torch
    from transformers import Pipeline, StoppingCriteriaList, TextStreamer


class _Row:
    """Streams the tokens of one row, up to its end."""

    def __init__(self, words: TextStreamer, ends: Sequence[int], limit: int | None) -> None:
        self._words, self._ends, self._limit = words, ends, limit
        self._tokens, self._has_ended = 0, False

    def put(self, token: torch.Tensor) -> None:
        """Takes the next token, of shape (1,)."""
        if self._has_ended:
            return
        self._words.put(token)
        self._tokens += 1
        if int(token[0]) in self._ends or self._tokens == self._limit:
            self.end()

    def end(self) -> None:
        """No more tokens."""
        if not self._has_ended:
            self._has_ended = True
            self._words.end()


class _Rows:
    """A streamer for `generate`, which calls `put` with the prompts first."""

    def __init__(self, rows: Sequence[_Row | None]) -> None:
        self._rows, self._had_prompts = rows, False

    def put(self, value: torch.Tensor) -> None:
        """Takes the next token of every row, shape (rows,)."""
        if not self._had_prompts:
            self._had_prompts = True
            return
        for row, token in zip(self._rows, value.reshape(-1), strict=True):
            if row is not None:
                row.put(token[None])

    def end(self) -> None:
        """No more tokens."""
        for row in self._rows:
            if row is not None:
                row.end()


def _cancellation(callbacks: Sequence[TextCallback | None]) -> StoppingCriteriaList:
    """Criteria that end the rows that are cancelled."""
    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    class Cancelled(StoppingCriteria):  # type: ignore[misc]  # has no types
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: object) -> torch.Tensor:
            cancelled = [on_text is not None and on_text.is_cancelled for on_text in callbacks]
            return torch.tensor(cancelled, device=input_ids.device)

    return StoppingCriteriaList([Cancelled()])


def _words(pipe: Pipeline, on_piece: Callable[[str], None]) -> TextStreamer:
    """A streamer that calls `on_piece` with whole words."""
    from transformers import TextStreamer

    words = TextStreamer(pipe.tokenizer, skip_special_tokens=True)
    words.on_finalized_text = lambda text, stream_end=False: on_piece(text) if text else None
    return words


def with_callbacks(
    pipe: Pipeline, forward_params: Mapping[str, Any], callbacks: Sequence[TextCallback | None], limits: Sequence[int | None]
) -> dict[str, Any]:
    """The arguments of the pipeline's forward, with a streamer that calls each row's callback with its new text.

    Args:
        pipe: a pipeline that generates.
        forward_params: the arguments of its forward.
        callbacks: one for each row of the batch, or None.
        limits: the most new tokens of each row.
    """
    eos = merged_config(pipe, forward_params).eos_token_id
    ends = eos if isinstance(eos, list) else [] if eos is None else [eos]
    rows = [
        None if on_text is None else _Row(_words(pipe, on_text.begin()), ends, limit)
        for on_text, limit in zip(callbacks, limits, strict=True)
    ]
    added: dict[str, Any] = {"streamer": _Rows(rows), "stopping_criteria": _cancellation(callbacks)}
    return sampling.with_arguments(pipe, forward_params, added)
