"""Linear layers on CPUs, multiplied by oneDNN with weights that it has laid out beforehand, where that is faster.

torch multiplies float32 with MKL, which leaves AVX-512 unused on processors of other makers than Intel; and bfloat16 with
oneDNN, which lays out the weights anew at each call.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

SHAPES = 128  # of inputs for which oneDNN keeps what it has made; with its 1,024, texts of all lengths take a gigabyte
for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own and torch's, read when first used
    os.environ.setdefault(name, str(SHAPES))

GAIN = 1.1  # times as fast as torch's own, or its own it stays
PROBE = 64, 768, 768  # rows, inputs and outputs of the layer that is timed
ROUNDS = 7  # of which the fastest counts
SMALLEST = 1 << 19  # multiplications; with fewer the call takes longer than the work


class Packed:
    """The `forward` of one linear layer, in place of its own. Copies of the layer share it, and so the weights."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        """Lays out the weights, which takes as much memory again. The layer keeps its own, for models look at them."""
        self._weight, self._bias = layer.weight, layer.bias
        self._packed = _pack(layer.weight.detach())

    def __deepcopy__(self, memo: dict[int, object]) -> Packed:
        """Itself: what a copied model shares with the first one."""
        return self

    def __call__(self, inputs: Tensor) -> Tensor:
        """(..., in) -> (..., out). What the layer itself would give, but for rounding."""
        import torch

        is_large = inputs.numel() * self._weight.shape[0] >= SMALLEST
        is_as_packed = inputs.dtype == self._weight.dtype == self._packed.dtype  # not after model.to(another)
        if is_large and is_as_packed and not torch.is_grad_enabled():
            return _multiply(inputs, self._packed, self._bias)
        return torch.nn.functional.linear(inputs, self._weight, self._bias)


def pack_linears(model: PreTrainedModel) -> int:
    """Replaces the `forward` of linear layers by a faster one; of a model whose dtype has changed, once more.

    Only of plain ones: what a quantized or offloaded model has in their place computes in its own way.

    Args:
        model: on the CPU and for inference alone. Others are left as they are.

    Returns:
        How many layers were replaced.
    """
    import torch

    if getattr(model, "hf_device_map", None) is not None:
        return 0
    layers = [layer for layer in model.modules() if type(layer) is torch.nn.Linear and layer.weight.device.type == "cpu"]
    found = [layer for layer in layers if is_faster(layer.weight.dtype)]
    for layer in found:
        layer.forward = Packed(layer)
    return len(found)


@functools.cache
def is_faster(dtype: torch.dtype) -> bool:
    """Whether this process multiplies matrices of a dtype faster with packed weights. Found by trying, in some 10 ms."""
    import torch

    if dtype not in (torch.float32, torch.bfloat16) or not torch.backends.mkldnn.is_available():
        return False
    rows, size, outputs = PROBE
    inputs, weight, bias = torch.ones(rows, size, dtype=dtype), torch.ones(outputs, size, dtype=dtype), torch.ones(outputs)
    bias = bias.to(dtype)
    with torch.no_grad():
        try:
            packed = _pack(weight)
            own, ours = _fastest(
                lambda: torch.nn.functional.linear(inputs, weight, bias), lambda: _multiply(inputs, packed, bias)
            )
        except (AttributeError, RuntimeError):  # torch's operators for packed weights are not public, and may not be there
            return False
    return own >= GAIN * ours


def _pack(weight: Tensor) -> Tensor:
    import torch

    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    return packed


def _multiply(inputs: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    import torch

    product: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, packed, bias, "none", [], "")
    return product


def _fastest(*calls: Callable[[], object]) -> list[float]:
    """Seconds of each call at its fastest; they take turns, so that what else happens on the machine meets all."""
    seconds = [float("inf")] * len(calls)
    for _ in range(ROUNDS):
        for index, call in enumerate(calls):
            started = time.perf_counter()
            call()
            seconds[index] = min(seconds[index], time.perf_counter() - started)
    return seconds
