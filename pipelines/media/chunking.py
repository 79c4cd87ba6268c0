"""Cuts long audio at the boundaries of transformers' `chunk_iter`, for a stream whose end is not known yet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Samples = npt.NDArray[np.float32]  # (samples,), mono


@dataclass(frozen=True)
class Window:
    """How long audio is cut, in samples: chunks of `length` that overlap by `left` and `right`."""

    length: int
    left: int
    right: int

    @property
    def step(self) -> int:
        """Samples from the start of one chunk to the start of the next."""
        return self.length - self.left - self.right

    @classmethod
    def of(cls, chunk_s: float, stride_s: float | tuple[float, float] | list[float] | None, rate: int, align: int) -> Window:
        """A window of lengths in seconds, at `rate` Hz, rounded to multiples of `align`: the samples of one output frame.

        The default stride is a sixth of the chunk on each side, as in transformers' speech pipeline.

        Raises:
            ValueError: the strides together are as long as the chunk, or longer.
        """
        stride = chunk_s / 6 if stride_s is None else stride_s
        left_s, right_s = (stride, stride) if isinstance(stride, (int, float)) else stride
        length, left, right = (int(round(s * rate / align) * align) for s in (chunk_s, left_s, right_s))
        if length <= left + right:
            raise ValueError(
                f"chunk_length_s={chunk_s:g} must be longer than both strides together ({left_s:g} + {right_s:g} s)"
            )
        return cls(length, left, right)


@dataclass(frozen=True)
class ChunkSpan:
    """One chunk: samples [start, stop) of the recording, of which `left` and `right` overlap its neighbours."""

    start: int
    stop: int
    left: int
    right: int
    is_last: bool

    @property
    def stride(self) -> tuple[int, int, int]:
        """(samples, left, right), as the speech pipeline's postprocessing takes it."""
        return self.stop - self.start, self.left, self.right


def spans(total: int, window: Window) -> Iterator[ChunkSpan]:
    """Yields the chunks of `total` samples, without a last chunk that holds only its left overlap."""
    for start in range(0, total, window.step):
        stop = min(start + window.length, total)
        last = start + window.length >= total
        left = 0 if start == 0 else window.left
        if stop - start > left:
            yield ChunkSpan(start, stop, left, 0 if last else window.right, last)
        if last:
            return


def chunks(blocks: Iterable[Samples], window: Window) -> Iterator[tuple[Samples, ChunkSpan]]:
    """Yields the chunks of a stream of blocks of any length; one chunk and one block are in memory at a time.

    They are exactly the chunks of `spans(total, window)`; none for an empty stream.
    """
    held = np.empty(0, np.float32)
    start = 0
    for block in blocks:
        held = np.concatenate([held, block])
        # One sample more than a chunk proves that the chunk is not the last one.
        while len(held) > window.length:
            left = 0 if start == 0 else window.left
            yield held[: window.length], ChunkSpan(start, start + window.length, left, window.right, False)
            held = held[window.step :]
            start += window.step
    left = 0 if start == 0 else window.left
    if len(held) > left:
        yield held, ChunkSpan(start, start + len(held), left, 0, True)
