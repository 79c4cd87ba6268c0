"""Collates the next batch and copies it to the accelerator while the model runs the current one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from dray.pipelines.batching.parts import Inputs, Part

if TYPE_CHECKING:
    import torch

    _Copied = tuple["Collated", torch.cuda.Event | None]
    _Staged = Future[_Copied]

AHEAD = 2  # batches that may be staged: the one that is taken now, and the next
Collated = tuple[Inputs, int]  # inputs of the model; the length they are padded to
Context = Callable[[], AbstractContextManager[None]]


class Staging:
    """Collates batches in advance in a thread, and copies them from pinned memory on a separate CUDA stream."""

    def __init__(self, collate: Callable[[Sequence[Part]], Collated], device: torch.device, context: Context) -> None:
        """`context` makes the context in which the model runs: compiled code depends on whether inputs were made in it."""
        self._collate, self._device, self._context = collate, device, context
        self._staged: deque[tuple[list[Part], _Staged]] = deque(maxlen=AHEAD)
        self._thread: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None
        self._may_pin = True

    def begin(self, parts: Sequence[Part]) -> None:
        """Starts to stage a batch. Batches must be taken in the order in which they were begun."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "staging")
        self._staged.append((list(parts), self._thread.submit(self._stage, parts)))

    def clear(self) -> None:
        """Drops the staged batches, which frees their memory."""
        self._staged.clear()

    def take(self, parts: Sequence[Part]) -> Collated:
        """The collated batch: on the device if it was staged, otherwise collated now. Raises as collating does."""
        place = next((place for place, (batch, _) in enumerate(self._staged) if _is_same(batch, parts)), None)
        if place is None:
            return self._collate(parts)
        for _ in range(place):  # earlier batches will not be taken any more
            self._staged.popleft()
        _, staged = self._staged.popleft()
        try:
            collated, copied = staged.result()
        except Exception:  # memory may have been short beside the batch before it: try again now that it is done
            return self._collate(parts)
        if copied is not None:
            import torch

            running = torch.cuda.current_stream(self._device)
            running.wait_event(copied)
            for value in collated[0].values():
                if isinstance(value, torch.Tensor):
                    value.record_stream(running)  # its memory was allocated on the other stream
        return collated

    def _stage(self, parts: Sequence[Part]) -> _Copied:
        with self._context():
            return self._copied(self._collate(parts))

    def _copied(self, collated: Collated) -> _Copied:
        import torch

        inputs, length = collated
        if self._device.type != "cuda":
            return (inputs, length), None
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = {name: self._moved(value) for name, value in inputs.items()}
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return (moved, length), copied

    def _moved(self, value: object) -> object:
        """A copy on the device, which may still be running. torch keeps the pinned memory until it is done."""
        import torch

        if not isinstance(value, torch.Tensor):
            return value
        if self._may_pin:
            try:
                return value.pin_memory().to(self._device, non_blocking=True)
            except RuntimeError:  # no more memory can be pinned
                self._may_pin = False
        return value.to(self._device)


def _is_same(one: Sequence[Part], two: Sequence[Part]) -> bool:
    return len(one) == len(two) and all(part is other for part, other in zip(one, two, strict=True))
