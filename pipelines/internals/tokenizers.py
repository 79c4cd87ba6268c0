"""Makes tokenizers safe for several threads."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from transformers import Pipeline

T = TypeVar("T")


def one_at_a_time(pipe: Pipeline) -> None:
    """Adds a lock to a pipeline's tokenizers, so that threads can share them: a call fails during another thread's call.

    Source: `set_truncation_and_padding` in transformers; every call changes the tokenizer's settings there.
    """
    shared = (pipe.tokenizer, getattr(pipe.processor, "tokenizer", None))
    for tokenizer in {id(each): each for each in shared if each is not None}.values():
        if hasattr(tokenizer, "_encode_plus"):
            tokenizer._encode_plus = _locked(tokenizer._encode_plus)


def _locked(call: Callable[..., T]) -> Callable[..., T]:
    lock = threading.RLock()

    def locked(*arguments: object, **named: object) -> T:
        with lock:
            return call(*arguments, **named)

    return locked
