"""`Item`: one row, as a pipeline takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dray.pipelines.batching.parts import TextCallback


@dataclass
class Item:
    """One row: the input of one call of the pipeline.

    Attributes:
        values: argument of the pipeline -> the value of its cell.
        options: the row's other call arguments, which override the config's.
        key: the row's key; it seeds the random numbers of the row's generation.
        on_text: called with the generated text, piece by piece.
    """

    values: Mapping[str, object]
    options: Mapping[str, object] = field(default_factory=dict)
    key: int = 0
    on_text: TextCallback | None = None
