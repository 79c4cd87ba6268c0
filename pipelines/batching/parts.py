"""Model inputs of rows, and how many of them a batch may hold."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any


class TextCallback:
    """Called with a row's text piece by piece, in the model's thread; with each piece once, though a batch may be run again.

    Attributes:
        is_cancelled: nothing more is to be generated for the row.
    """

    def __init__(self, on_piece: Callable[[str], None]) -> None:
        """`on_piece` takes the next piece."""
        self._on_piece, self._reported = on_piece, 0
        self.is_cancelled = False

    def begin(self) -> Callable[[str], None]:
        """What one run of the model is to call with every piece, from the beginning of the text."""
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
    """One model input.

    Attributes:
        inputs: what the pipeline's `preprocess` made; tensors of batch dimension 1.
        cost: elements of the main tensor: tokens, samples, pixels.
        options: call arguments of its row, where they change the pipeline's forward.
        group: parts of different groups never share a batch; those of ALONE share with none.
        seconds: of audio that no earlier part of the item covers; 0 for other media.
        seed: of the random numbers that its generation draws.
        key: of its row.
        space: elements it takes in a batch; more than `cost` where the model is given only some lengths.
        on_text: called with its text, piece by piece, as it is generated.
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
        """Fills in `space`."""
        self.space = max(self.space, self.cost)


@dataclass
class Limits:
    """How large a batch may be: a number of parts, or of padded elements. Running out of memory lowers the latter.

    Attributes:
        parts: at most.
        elements: at most, padding included.
        by_length: (elements of a part, padded elements of a batch of parts up to that), rising; longer parts as the last.
        overhead: what a batch costs however little is in it, as a share of what the elements of a full one cost.
    """

    parts: int
    elements: int
    by_length: tuple[tuple[int, int], ...] = ()
    overhead: float = 1.0

    @classmethod
    def fixed(cls, parts: int) -> Limits:
        """At most `parts` parts, however long."""
        return cls(parts, UNBOUNDED)

    @classmethod
    def budget(cls, elements: int, overhead: float = 1.0) -> Limits:
        """As many parts as `elements` padded elements hold, at least one."""
        return cls(1 << 31, elements, overhead=overhead)

    def capacity(self, cost: int) -> int:
        """Parts of at most `cost` elements that fit a batch; at least 1."""
        last = self.by_length[-1][1] if self.by_length else self.elements
        elements = next((most for longest, most in self.by_length if cost <= longest), last)
        return max(1, min(self.parts, min(elements, self.elements) // max(1, cost)))

    def lower(self, parts: int, cost: int) -> None:
        """Remembers that `parts` parts of `cost` elements were too much; of one part alone there is nothing to learn."""
        if parts > 1:
            self.elements = min(self.elements, max(1, parts * cost // 2))
