"""Parts of different items in one batch: packed by length, collated, split again, halved around a bad one."""

from __future__ import annotations

import itertools
from collections import UserDict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from dray.pipelines.batching.padding import Sharing
from dray.pipelines.generation.sampling import continues_prompts

if TYPE_CHECKING:
    import torch
    from dray.pipelines.generation.streaming import Listener
    from transformers import Pipeline

RIPE = 0.95  # of what a batch computes is data, in one that need not wait for better company
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
        listener: hears of its text as it is generated.
    """

    inputs: Inputs
    cost: int
    options: dict[str, object] = field(default_factory=dict)
    group: Hashable = None
    seconds: float = 0.0
    seed: int = 0
    key: int = 0
    space: int = 0
    listener: Listener | None = None

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

    def room(self, cost: int) -> int:
        """Parts of at most `cost` elements that fit a batch; at least 1."""
        last = self.by_length[-1][1] if self.by_length else self.elements
        elements = next((most for longest, most in self.by_length if cost <= longest), last)
        return max(1, min(self.parts, min(elements, self.elements) // max(1, cost)))

    def lower(self, parts: int, cost: int) -> None:
        """Remembers that `parts` parts of `cost` elements were too much; of one part alone there is nothing to learn."""
        if parts > 1:
            self.elements = min(self.elements, max(1, parts * cost // 2))


def pack(parts: Sequence[Part], limits: Limits) -> list[list[int]]:
    """Batches as lists of positions in `parts`: longest first, each of similar lengths and within `limits`.

    Within a budget of elements, batches end where padding and the number of batches together cost least; of a fixed number of
    parts they are always full.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, part in enumerate(parts):
        groups.setdefault(part.group, []).append(index)
    batches = []
    for name, group in groups.items():
        group.sort(key=lambda index: -parts[index].space)
        spaces = [parts[index].space for index in group]
        rooms = [1 if name is Sharing.ALONE else limits.room(space) for space in spaces]
        ends = _cheapest(spaces, rooms, limits.overhead) if limits.elements < UNBOUNDED else _full(rooms)
        batches += [group[start:end] for start, end in itertools.pairwise([0, *ends])]
    batches.sort(key=lambda batch: -parts[batch[0]].space)
    return batches


def _full(rooms: Sequence[int]) -> list[int]:
    """Where batches end that are as large as the room of their first part."""
    ends = [0]
    while ends[-1] < len(rooms):
        ends.append(min(len(rooms), ends[-1] + rooms[ends[-1]]))
    return ends[1:]


def _cheapest(spaces: Sequence[int], rooms: Sequence[int], overhead: float) -> list[int]:
    """Where batches end such that they cost least in all, by dynamic programming over where each begins.

    Args:
        spaces: elements of the parts, falling.
        rooms: parts that a batch may hold that begins there.
        overhead: of a batch, as of Limits.
    """
    count = len(spaces)
    cost, begin = np.full(count + 1, np.inf), np.zeros(count + 1, np.int64)
    cost[0] = 0.0
    sizes = np.arange(1, max(rooms) + 1)
    for start, (space, room) in enumerate(zip(spaces, rooms, strict=True)):
        last = min(count, start + room)
        found = cost[start] + space * (overhead * room + sizes[: last - start])
        known = cost[start + 1 : last + 1]
        better = found < known
        known[better] = found[better]
        begin[start + 1 : last + 1][better] = start
    ends = [count]
    while begin[ends[-1]]:
        ends.append(int(begin[ends[-1]]))
    return ends[::-1]


def ripe(parts: Sequence[Part], limits: Limits) -> set[int]:
    """The positions in `parts` of those that fill batches with little padding; at least of one batch.

    The others are better kept until more parts are there, of which some may be as long.
    """
    batches = pack(parts, limits)

    def efficiency(batch: Sequence[int]) -> float:
        return sum(parts[index].space for index in batch) / max(1, len(batch) * parts[batch[0]].space)

    def is_full(batch: Sequence[int]) -> bool:
        longest = parts[batch[0]]
        return longest.group is Sharing.ALONE or len(batch) >= limits.room(longest.space)

    full = [batch for batch in batches if is_full(batch) and efficiency(batch) >= RIPE]
    return {index for batch in full or [max(batches, key=efficiency)] for index in batch}


def plain(inputs: Any) -> dict[str, Any]:  # noqa: ANN401  # a BatchEncoding, BatchFeature or dict
    """Model inputs as a dict, without the tokenizer's own objects, which are slow to send."""
    return {key: [_light(one) for one in value] if isinstance(value, list) else value for key, value in inputs.items()}


def _light(value: object) -> object:
    return UserDict(value.data) if isinstance(value, UserDict) else value


def elements(inputs: Mapping[str, object]) -> int:
    """Elements of the largest tensor; the masks beside it are no larger."""
    import torch

    return max((value.numel() for value in inputs.values() if isinstance(value, torch.Tensor)), default=1)


def cast(inputs: dict[str, object], dtype: torch.dtype) -> dict[str, object]:
    """Floating-point inputs in the weights' dtype, which the meta model may not have known."""
    import torch

    return {
        key: value.to(dtype) if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in inputs.items()
    }


def collate(pipe: Pipeline, parts: Sequence[Part]) -> Inputs:
    """The parts as one model input, padded by transformers' own rules; a single part stays as it is."""
    if len(parts) == 1:
        return dict(parts[0].inputs)
    from transformers.pipelines.base import pad_collate_fn

    extractor = pipe.feature_extractor if pipe.feature_extractor is not None else pipe.image_processor
    if extractor is not None and continues_prompts(pipe):
        # Prompts are padded on the left, and what a feature extractor makes of media is not padded at all.
        extractor = SimpleNamespace(padding_value=getattr(extractor, "padding_value", None), padding_side=None)
    padded: Inputs = pad_collate_fn(pipe.tokenizer, extractor)([part.inputs for part in parts])
    return padded


def split(outputs: object, count: int, was_collated: bool = False) -> list[Output]:
    """A batched output as `count` outputs of batch dimension 1, as transformers' PipelineIterator unrolls it.

    `was_collated`: so was a single part, and what is no tensor in it is in a list.
    """
    if count == 1 and not was_collated and not (isinstance(outputs, dict) and "past_key_values" in outputs):
        return [outputs]
    if not isinstance(outputs, dict):
        raise TypeError(f"the model's output is a {type(outputs).__name__}, which cannot be split into items")
    kept = [key for key in outputs if key != "past_key_values"]
    if count == 1 and not was_collated:
        return [type(outputs)({key: outputs[key] for key in kept})]
    # The class stays, for postprocessing may ask a ModelOutput for its first field.
    return [type(outputs)({key: _row(outputs[key], index) for key in kept}) for index in range(count)]


def _row(value: Any, index: int) -> object:  # noqa: ANN401  # whatever models give
    import numpy as np
    import torch

    if value is None:
        return None
    if isinstance(value, dict):  # a nested ModelOutput
        return tuple(_row(inner, index) for inner in value.values())
    if isinstance(value, tuple) and value and isinstance(value[0], (torch.Tensor, np.ndarray)):
        return tuple(_row(inner, index) for inner in value)
    if isinstance(value, (torch.Tensor, np.ndarray)):
        return value[index : index + 1]
    if isinstance(value, (list, tuple)):
        row = value[index]
        return row.unsqueeze(0) if isinstance(row, torch.Tensor) else row
    raise TypeError(f"cannot split a {type(value).__name__}")


def bisect(
    batch: Sequence[int],
    run: Callable[[Sequence[int]], None],
    failed: Callable[[int, Exception], None],
    out_of_memory: Callable[[Sequence[int]], None],
) -> None:
    """Runs a batch; where that raises, runs its halves, until each culprit is alone and is given to `failed`.

    Takes at most 2 k log2(n) + 1 runs for k culprits among n. `out_of_memory` hears of batches that did not fit.
    """
    did_not_fit = False
    try:
        run(batch)
        return
    except Exception as error:  # a model raises whatever it likes
        did_not_fit = is_out_of_memory(error)
        if len(batch) == 1:
            failed(batch[0], error)
    # Outside of `except`: the error's traceback would keep the tensors of the failed run alive.
    if did_not_fit:
        out_of_memory(batch)
    if len(batch) > 1:
        middle = len(batch) // 2
        bisect(batch[:middle], run, failed, out_of_memory)
        bisect(batch[middle:], run, failed, out_of_memory)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that a smaller batch may work."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def is_lasting(error: BaseException) -> bool:
    """Whether the error leaves the accelerator unusable for this process, as an assertion in a CUDA kernel does."""
    import torch

    return isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error)


def free_cached_memory() -> None:
    """Gives back to the accelerator what torch keeps for later, which may be in pieces too small for anything."""
    import torch

    if torch.accelerator.is_available():
        torch.accelerator.empty_cache()
