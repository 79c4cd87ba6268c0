"""Private names of torch's compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mark_sequences(value: torch.Tensor) -> None:
    """Marks a tensor (texts, tokens, ...) for the compiler: the number of tokens is a constant, the number of texts is not.

    Without the marks, torch would make the number of tokens a variable when it sees a second one, and the number of texts a
    constant.
    """
    import torch

    torch._dynamo.maybe_mark_dynamic(value, 0)
    torch._dynamo.mark_static(value, 1)
