"""Decides whether a model runs in bfloat16: if that is faster, and its predictions for real rows stay the same."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dray.pipelines.engine.block import Outcome, predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.internals.linear import pack_linears

if TYPE_CHECKING:
    import torch

    from dray.pipelines.phases.item import Item
    from dray.pipelines.phases.phases import Phases

COSINE = 0.999  # the least between a row's embeddings in both precisions
NUMBER = 0.05  # the most by which other numbers may differ; above 1, the most relative difference
EMBEDDING = 16  # a list of at least this many numbers is an embedding
GAIN = 1.1  # bfloat16 is used if it is at least this many times as fast as float32
FLAGS = {"amx_bf16", "avx512_bf16"}  # of processors


def processor_has_bfloat16() -> bool:
    """Whether this machine's processor multiplies bfloat16 faster than float32; False if that is not known."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return any(FLAGS & set(line.partition(":")[2].split()) for line in lines if line.startswith("flags"))


def is_fast(device: object) -> bool:
    """Whether bfloat16 is faster than float32 on a torch device."""
    import torch

    kind = torch.device(str(device)).type
    return torch.cuda.is_bf16_supported(including_emulation=False) if kind == "cuda" else processor_has_bfloat16()


def choose(phases: Phases, items: Sequence[Item], timeout_s: float) -> tuple[str, str]:
    """Runs rows in float32 and in bfloat16, and returns the precision to use.

    Args:
        phases: with weights; afterwards they are in bfloat16, or as they were and no longer to be used.
        items: a few rows.
        timeout_s: as errors.timeout_s.

    Returns:
        "bfloat16", or "auto" for the precision that the model was saved in; and why.
    """
    import torch

    if not phases.is_float32:
        return "auto", "the model was not saved in float32"
    if not is_fast(phases.pipe.device):
        return "auto", "bfloat16 is not faster on this hardware"
    full, slow = _timed(phases, items, timeout_s)
    phases.pipe.model.to(torch.bfloat16)
    if not phases.is_compiled:  # as when it is loaded
        pack_linears(phases.pipe.model)
    half, fast = _timed(phases, items, timeout_s)
    different = difference(full, half)
    if different is not None:
        return "auto", f"bfloat16 gives another result: {different}"
    if fast * GAIN > slow:
        return "auto", f"bfloat16 is {slow / fast:.2f} times as fast, which is not worth it"
    return "bfloat16", f"{slow / fast:.2f} times as fast, and {len(items)} rows agree with float32"


def _timed(phases: Phases, items: Sequence[Item], timeout_s: float) -> tuple[list[Outcome], float]:
    """The outcomes, and seconds of the second of two runs."""
    limits, watchdog = phases.limits("auto"), Watchdog(timeout_s)
    predict(phases, items, replace(limits), watchdog)  # a copy: running out of memory lowers it
    started = time.perf_counter()
    outcomes = predict(phases, items, limits, watchdog)
    return outcomes, time.perf_counter() - started


def difference(full: Sequence[Outcome], half: Sequence[Outcome]) -> str | None:
    """How the results in half precision differ from those in full precision; None if they agree.

    Labels and texts must be equal; of a list of scored labels only the first. Embeddings must point the same way.
    """
    pairs = [(one, other) for one, other in zip(full, half, strict=True) if one.error is None]
    if not pairs:
        return "no row to compare"
    for one, other in pairs:
        if other.error is not None:
            return str(other.error)
        found = next(_differences(one.prediction, other.prediction), None)
        if found is not None:
            return found
    return None


def _differences(full: object, half: object) -> Iterator[str]:
    import torch

    if isinstance(full, torch.Tensor) and isinstance(half, torch.Tensor):
        yield from _tensors(full, half)
    elif _is_vector(full) and _is_vector(half) and len(full) == len(half):  # type: ignore[arg-type]
        yield from _vectors(np.array(full, np.float64), np.array(half, np.float64))
    elif _are_scored(full) and _are_scored(half):
        yield from _differences(full[0], half[0])  # type: ignore[index]
    elif isinstance(full, dict) and isinstance(half, dict) and full.keys() == half.keys():
        for key in full:
            yield from _differences(full[key], half[key])
    elif isinstance(full, (list, tuple)) and isinstance(half, (list, tuple)) and len(full) == len(half):
        for one, other in zip(full, half, strict=True):
            yield from _differences(one, other)
    elif isinstance(full, float) and isinstance(half, float):
        if not abs(full - half) <= NUMBER * max(1.0, abs(full)):
            yield f"{half:.4g} instead of {full:.4g}"
    elif isinstance(full, np.ndarray) and isinstance(half, np.ndarray) and full.shape == half.shape:
        yield from _vectors(full.astype(np.float64).ravel(), half.astype(np.float64).ravel())
    elif isinstance(full, np.ndarray) or isinstance(half, np.ndarray) or full != half:
        yield f"{str(half)[:60]} instead of {str(full)[:60]}"


def _tensors(full: torch.Tensor, half: torch.Tensor) -> Iterator[str]:
    """Compares embeddings, one for each token, by direction, and short rows as numbers; other types must be equal."""
    if full.shape != half.shape:
        yield f"{tuple(half.shape)} numbers instead of {tuple(full.shape)}"
    elif full.is_floating_point() and full.ndim and full.shape[-1] >= EMBEDDING:
        for one, other in zip(*(each.double().reshape(-1, each.shape[-1]).numpy() for each in (full, half)), strict=True):
            yield from _vectors(one, other)
    else:
        yield from _differences(full.tolist(), half.tolist())


def _vectors(full: np.ndarray, half: np.ndarray) -> Iterator[str]:
    norms = float(np.linalg.norm(full) * np.linalg.norm(half))
    cosine = float(full @ half) / norms if norms else float(np.array_equal(full, half))
    if not cosine > COSINE:
        yield f"vectors of cosine {cosine:.4f}"


def _is_vector(value: object) -> bool:
    return isinstance(value, list) and len(value) >= EMBEDDING and all(isinstance(number, float) for number in value)


def _are_scored(value: object) -> bool:
    """Whether this is a list of labels, the best first."""
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(isinstance(each, dict) and "score" in each and len(each) == 2 for each in value)
    )
