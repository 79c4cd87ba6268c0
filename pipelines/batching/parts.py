"""`Part`, one model input of a row, and `Limits`, the limits of a batch of parts."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


class TextCallback:
    """Calls a function with a row's text, piece by piece, in the model's thread.

    A batch may be run again; text that was already passed on is not passed on a second time.

    Attributes:
        is_cancelled: set it to stop generation for the row.
    """

    def __init__(self, on_piece: Callable[[str], None]) -> None:
        """`on_piece` is called with each new piece."""
        self._on_piece, self._reported = on_piece, 0
        self.is_cancelled = False

    def begin(self) -> Callable[[str], None]:
        """A function for one run of the model, to be called with every piece from the beginning of the text."""
        position = 0

        def report(piece: str) -> None:
            nonlocal position
            position += len(piece)
            if position > self._reported:
                new = piece[len(piece) - (position - self._reported) :]
                self._reported = position
                self._on_piece(new)

        return report


UNBOUNDED = 1 << 62  # elements

Inputs = dict[str, object]
Output = Any  # of the pipeline's forward: nearly always a dict or ModelOutput, of batch dimension 1


@dataclass(slots=True)
class Part:
    """One model input. An `Item` (a row) gives one part, or several, for instance the chunks of a recording.

    Attributes:
        inputs: the output of the pipeline's `preprocess`; tensors have batch dimension 1.
        cost: elements of the main tensor: tokens, samples, pixels.
        options: the row's call arguments, if they change the pipeline's forward.
        group: parts of different groups never share a batch; a part of ALONE shares with no other.
        seconds: of audio that no earlier part of the item covers; 0 for other media.
        seed: seeds the random numbers of its generation.
        key: the row's key.
        space: elements it takes in a batch; more than `cost` if it is padded to one of a few lengths.
        on_text: called with the generated text, piece by piece.
    """

    inputs: Inputs
    cost: int
    options: dict[str, object] = field(default_factory=dict)
    group: Hashable = None
    seconds: float = 0.0
    seed: int = 0
    key: int = 0
    space: int = 0
    on_text: TextCallback | None = None

    def __post_init__(self) -> None:
        """Sets `space`, which is never less than `cost`."""
        self.space = max(self.space, self.cost)


@dataclass
class Limits:
    """How large a batch may be: a number of parts, or of padded elements, which running out of memory lowers.

    Attributes:
        parts: the most parts.
        elements: the most elements, padding included.
        by_length: (elements of a part, padded elements of a batch of parts up to this length), in rising order; the last
            holds for longer parts too.
        overhead: fixed cost of a batch, as a share of the cost of the elements of a full batch.
    """

    parts: int
    elements: int
    by_length: tuple[tuple[int, int], ...] = ()
    overhead: float = 1.0

    @classmethod
    def fixed(cls, parts: int) -> Limits:
        """Limits of `parts` parts of any length."""
        return cls(parts, UNBOUNDED)

    @classmethod
    def budget(cls, elements: int, overhead: float = 1.0) -> Limits:
        """Limits of `elements` padded elements; one part always fits."""
        return cls(1 << 31, elements, overhead=overhead)

    def capacity(self, cost: int) -> int:
        """How many parts of at most `cost` elements fit in a batch; at least 1."""
        last = self.by_length[-1][1] if self.by_length else self.elements
        elements = next((most for longest, most in self.by_length if cost <= longest), last)
        return max(1, min(self.parts, min(elements, self.elements) // max(1, cost)))

    def lower(self, parts: int, cost: int) -> None:
        """Halves the limit after `parts` parts of `cost` elements ran out of memory; does nothing for a single part."""
        if parts > 1:
            self.elements = min(self.elements, max(1, parts * cost // 2))
