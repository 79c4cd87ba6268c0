"""Multiplies linear layers on CPUs by oneDNN, with weights packed in advance, where that is faster.

torch multiplies float32 with MKL, which uses AVX-512 only on processors of Intel. It multiplies bfloat16 with oneDNN, which
packs the weights again in each call.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dray.pipelines.memory import free_memory

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
    from transformers import PreTrainedModel

SHAPES = 64  # of inputs, for which oneDNN caches primitives; its default of 1,024 takes a gigabyte for texts of all lengths
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own and torch's, read at the first use
    os.environ.setdefault(name, str(SHAPES))

GAIN = 1.1  # packed weights are used if they are at least this many times as fast
PROBE = 768  # inputs and outputs of the layer that is timed
PROBE_ROWS = {"float32": 64, "bfloat16": 8}  # few rows of bfloat16, since with many the time to pack weights is small
MANY = 256  # rows of a batch that keeps the processor busy
ROUNDS = 7  # of which the fastest counts
SMALLEST = 1 << 20  # multiplications of float32; with fewer the call takes longer than the work
MEMORY_SHARE = 0.5  # share of free memory that packed weights may take


class PackedLinear:
    """Replaces the `forward` of one linear layer. Copies of the layer share it, and so the packed weights.

    If the weights have been changed or converted since, it multiplies as the layer itself does.
    """

    def __init__(self, layer: nn.Linear) -> None:
        """Packs the weights, which takes as much memory again: the layer keeps its own, since models read them."""
        self._weight, self._bias = layer.weight, layer.bias
        self._packed, self._version = _pack(layer.weight.detach()), layer.weight._version
        self._smallest = SMALLEST if _name(layer.weight.dtype) == "float32" else 0

    def __deepcopy__(self, memo: dict[int, object]) -> PackedLinear:
        """Itself, so that a copy of the model shares the packed weights."""
        return self

    def __call__(self, inputs: Tensor) -> Tensor:
        """The layer's output, apart from rounding: (..., in) -> (..., out)."""
        import torch

        is_large = inputs.numel() * self._weight.shape[0] >= max(1, self._smallest)
        is_same = inputs.dtype == self._weight.dtype == self._packed.dtype and self._weight._version == self._version
        if is_large and is_same and not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu"):
            return _multiply(inputs, self._packed, self._bias)
        return torch.nn.functional.linear(inputs, self._weight, self._bias)


def pack_linears(model: PreTrainedModel) -> int:
    """Replaces the `forward` of linear layers by a faster one. It may be called again after a change of dtype.

    It leaves a quantized or offloaded model, and layers with hooks or another `forward`, unchanged; and all layers if memory is
    short.

    Args:
        model: used only for inference; unchanged if it is not on the CPU.

    Returns:
        How many layers were replaced.
    """
    config = getattr(model, "config", None)
    if getattr(model, "hf_device_map", None) is not None or getattr(config, "quantization_config", None) is not None:
        return 0
    layers = [layer for layer in model.modules() if _is_plain(layer) and is_faster(layer.weight.dtype)]
    if sum(layer.weight.nbytes for layer in layers) > MEMORY_SHARE * free_memory():
        return 0
    count = 0
    for layer in layers:
        with contextlib.suppress(RuntimeError):  # oneDNN refuses some layers, for instance without inputs
            layer.forward = PackedLinear(layer)
            count += 1
    return count


def _is_plain(layer: nn.Module) -> bool:
    """Whether this is torch's own linear layer, unchanged, on the CPU."""
    import torch

    if type(layer) is not torch.nn.Linear or layer._forward_pre_hooks or layer._forward_hooks:
        return False
    weight, forward = layer._parameters.get("weight"), vars(layer).get("forward")
    return (
        type(weight) is torch.nn.Parameter
        and weight.device.type == "cpu"
        and (forward is None or type(forward) is PackedLinear)
    )


@functools.cache
def is_faster(dtype: torch.dtype) -> bool:
    """Whether this process multiplies matrices of a dtype faster with packed weights. It is measured, in about 10 ms."""
    import torch

    rows = PROBE_ROWS.get(_name(dtype))
    if rows is None or not torch.backends.mkldnn.is_available():
        return False
    own, ours = _seconds(dtype, rows)
    return own >= GAIN * ours


@functools.cache
def speed(dtype: torch.dtype) -> float:
    """The measured operations per second of one thread that multiplies large matrices of `dtype`, or else of float32."""
    import torch

    known = dtype if _name(dtype) in PROBE_ROWS else torch.float32
    return 2.0 * MANY * PROBE * PROBE / min(_seconds(known, MANY))


def _seconds(dtype: torch.dtype, rows: int) -> tuple[float, float]:
    """Seconds of one layer in one thread: (by torch's own way, with packed weights); the latter inf if it is not possible."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # several threads would wait for each other on a busy machine
    inputs, weight, bias = (torch.ones(shape, dtype=dtype) for shape in ((rows, PROBE), (PROBE, PROBE), (PROBE,)))

    def plain() -> Tensor:
        return torch.nn.functional.linear(inputs, weight, bias)

    with torch.no_grad():
        try:
            packed = _pack(weight)
            own, ours = _fastest(plain, lambda: _multiply(inputs, packed, bias))
        except (AttributeError, RuntimeError):  # torch's operators for packed weights are private, and may be missing
            (own,), ours = _fastest(plain), math.inf
        finally:
            torch.set_num_threads(threads)
    return own, ours


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _pack(weight: Tensor) -> Tensor:
    import torch

    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def _multiply(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


def _fastest(*calls: Callable[[], object]) -> list[float]:
    """The fewest seconds of each call. The calls alternate, so that other work on the machine affects all of them."""
    seconds = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            started = time.perf_counter()
            call()
            seconds[index] = min(seconds[index], time.perf_counter() - started)
    return seconds
