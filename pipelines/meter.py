"""Figures of the work on rows; their sums are the figures of a job."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, fields

LARGEST, SMALLEST = ("peak_bytes",), ("first_forward", "batch_elements")  # the others are summed


@dataclass
class Meter:
    """The figures of the work on one row. Their sums over rows are the job's figures.

    Attributes:
        audio_seconds: length of its audio.
        elements: elements of its parts.
        padded_elements: elements of its parts as the model ran on them, with padding.
        read_s, preprocess_s, forward_s, postprocess_s: seconds in each phase; a batch's seconds are divided by cost. If a
            worker runs the model in several threads, forward_s is the sum over the threads.
        waiting_s: seconds in which a worker's model did not run; also the sum over its model threads.
        peak_bytes: the most memory of a process that worked on the row; the job's figure is the maximum.
        first_forward: when the model first ran, in seconds since the epoch; the job's figure is the minimum.
        out_of_memory: batches that did not fit in memory.
        batch_elements: the limit of padded elements in a batch after that; the job's figure is the minimum.
    """

    audio_seconds: float = 0.0
    elements: float = 0.0
    padded_elements: float = 0.0
    read_s: float = 0.0
    preprocess_s: float = 0.0
    forward_s: float = 0.0
    postprocess_s: float = 0.0
    waiting_s: float = 0.0
    peak_bytes: float = 0.0
    first_forward: float = math.inf
    out_of_memory: float = 0.0
    batch_elements: float = math.inf

    def add(self, other: Meter) -> None:
        """Adds the figures of `other`: sums, or the maximum or minimum as described above."""
        for name, value in other.values().items():
            join = max if name in LARGEST else min if name in SMALLEST else operator.add
            setattr(self, name, join(getattr(self, name), value))

    def take(self) -> Meter:
        """Returns a copy, and sets this meter back to its initial values."""
        copy = Meter(**self.values())
        self.__init__()  # type: ignore[misc]
        return copy

    def values(self) -> dict[str, float]:
        """The figures: name -> value."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
