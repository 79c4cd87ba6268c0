"""Private names of torch's compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def mark_sequences(value: torch.Tensor) -> None:
    """Tells the compiler of a tensor (texts, tokens, ...) that the number of tokens is a constant, and that of texts is not.

    torch makes a variable of the tokens when it sees a second number of them, and a constant of the texts.
    """
    import torch

    torch._dynamo.maybe_mark_dynamic(value, 0)
    torch._dynamo.mark_static(value, 1)
