"""Figures of the work on rows, which add up to those of a job."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, fields

LARGEST, SMALLEST = ("peak_bytes",), ("first_forward", "batch_elements")  # the others are summed


@dataclass
class Meter:
    """What the work on a row took. Sums over rows are the job's figures.

    Attributes:
        audio_seconds: length of its audio.
        elements: elements of its parts.
        padded_elements: its share of what the model was run on, padding included.
        read_s, preprocess_s, forward_s, postprocess_s: seconds in each phase; a batch's are shared by cost. Of a worker whose
            model runs in several lanes forward_s is the sum over these.
        waiting_s: seconds the model did not run, of a worker that has it; likewise the sum over its lanes.
        peak_bytes: the most memory a process that worked on it has held; sums as the maximum.
        first_forward: when the model first ran, in seconds since the epoch; sums as the minimum.
        out_of_memory: batches that did not fit.
        batch_elements: the most padded elements that are still put in a batch after that; sums as the minimum.
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
        """Adds each figure; keeps the larger peak and the earlier start."""
        for name, value in other.values().items():
            join = max if name in LARGEST else min if name in SMALLEST else operator.add
            setattr(self, name, join(getattr(self, name), value))

    def take(self) -> Meter:
        """A copy; this one starts again from zero."""
        copy = Meter(**self.values())
        self.__init__()  # type: ignore[misc]
        return copy

    def values(self) -> dict[str, float]:
        """Name -> figure."""
        return {item.name: getattr(self, item.name) for item in fields(self)}
