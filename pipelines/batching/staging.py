"""The next batch, collated and on its way to the accelerator while the model runs this one."""

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

AHEAD = 2  # batches that may be under way: the one that is taken now, and the next
Collated = tuple[Inputs, int]  # inputs of the model; what else is known of them
Context = Callable[[], AbstractContextManager[None]]


class Staging:
    """Collates batches ahead in a thread, and copies them from pinned memory on a stream of its own."""

    def __init__(self, collate: Callable[[Sequence[Part]], Collated], device: torch.device, context: Context) -> None:
        """`context` makes the one in which the model runs: code is compiled for inputs that were made in it, or not."""
        self._collate, self._device, self._context = collate, device, context
        self._staged: deque[tuple[list[Part], _Staged]] = deque(maxlen=AHEAD)
        self._thread: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None
        self._may_pin = True

    def begin(self, parts: Sequence[Part]) -> None:
        """Starts on a batch that is to be taken after those that were begun before it."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "staging")
        self._staged.append((list(parts), self._thread.submit(self._stage, parts)))

    def clear(self) -> None:
        """Forgets what was begun, and so gives its memory back."""
        self._staged.clear()

    def take(self, parts: Sequence[Part]) -> Collated:
        """A batch: on the device if it was begun and there was room, otherwise collated here. Raises what collating raises."""
        place = next((place for place, (first_piece, _) in enumerate(self._staged) if _is_same(first_piece, parts)), None)
        if place is None:
            return self._collate(parts)
        for _ in range(place):  # those before it will not be asked for any more
            self._staged.popleft()
        _, staged = self._staged.popleft()
        try:
            collated, copied = staged.result()
        except Exception:  # say for want of memory beside the batch before it: that is no fault of this batch's
            return self._collate(parts)
        if copied is not None:
            import torch

            running = torch.cuda.current_stream(self._device)
            running.wait_event(copied)
            for value in collated[0].values():
                if isinstance(value, torch.Tensor):
                    value.record_stream(running)  # its memory was given out for the other stream
        return collated

    def _stage(self, parts: Sequence[Part]) -> _Copied:
        with self._context():
            return self._copied(self._collate(parts))

    def _copied(self, collated: Collated) -> _Copied:
        import torch

        inputs, known = collated
        if self._device.type != "cuda":
            return (inputs, known), None
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        with torch.cuda.stream(self._stream):
            moved = {name: self._moved(value) for name, value in inputs.items()}
            copied = torch.cuda.Event()
            copied.record(self._stream)
        return (moved, known), copied

    def _moved(self, value: object) -> object:
        """A copy on the device, begun and not waited for. torch keeps the pinned memory until it is done."""
        import torch

        if not isinstance(value, torch.Tensor):
            return value
        if self._may_pin:
            try:
                return value.pin_memory().to(self._device, non_blocking=True)
            except RuntimeError:  # the system lets no more memory be pinned
                self._may_pin = False
        return value.to(self._device)


def _is_same(one: Sequence[Part], two: Sequence[Part]) -> bool:
    return len(one) == len(two) and all(part is other for part, other in zip(one, two, strict=True))
