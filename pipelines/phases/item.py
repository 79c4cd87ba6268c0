"""One row as a pipeline takes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dray.pipelines.batching.parts import TextCallback


@dataclass
class Item:
    """One row's input.

    Attributes:
        values: argument of the pipeline -> the value in its cell.
        options: this row's other call arguments, which override the config's.
        key: of the row; the random numbers that its generation draws come from it.
        on_text: called with its text, piece by piece, as it is generated.
    """

    values: Mapping[str, object]
    options: Mapping[str, object] = field(default_factory=dict)
    key: int = 0
    on_text: TextCallback | None = None
