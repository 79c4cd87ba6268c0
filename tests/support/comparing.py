"""Equality of predictions: text and labels exactly, floats within a tolerance, media by what they encode."""

import io
import math

import numpy as np
import soundfile
from PIL import Image


def differences(got: object, expected: object, tolerance: float = 1e-4, at: str = "") -> list[str]:
    """Where two predictions differ; tuples and lists count as the same, and so do null and a missing key."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or any(got[key] is not None for key in got.keys() - expected.keys()):
            return [f"{at}: {got!r} is not {expected!r}"]
        return [d for key in expected for d in differences(got.get(key), expected[key], tolerance, f"{at}.{key}")]
    if isinstance(expected, Image.Image) or (isinstance(got, bytes) and hasattr(expected, "shape")):
        return _media(got, expected, tolerance, at)
    if hasattr(expected, "tolist"):
        expected = expected.tolist()
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            return [f"{at}: {got!r} is not {expected!r}"]
        pairs = enumerate(zip(got, expected, strict=True))
        return [d for index, (one, other) in pairs for d in differences(one, other, tolerance, f"{at}[{index}]")]
    if isinstance(expected, float) and got is not None:
        return [] if math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance) else [f"{at}: {got} != {expected}"]
    return [] if got == expected else [f"{at}: {got!r} != {expected!r}"]


def _media(got: bytes, expected: object, tolerance: float, at: str) -> list[str]:
    """Pictures within one step of brightness, sounds within the tolerance."""
    if isinstance(expected, Image.Image):
        one, other = np.asarray(Image.open(io.BytesIO(got))).astype(int), np.asarray(expected).astype(int)
        limit = 1.0
    else:
        one, other = soundfile.read(io.BytesIO(got), always_2d=True)[0].T, np.atleast_2d(expected)
        limit = tolerance
    if one.shape != other.shape:
        return [f"{at}: shape {one.shape} is not {other.shape}"]
    worst = float(np.abs(one - other).max()) if one.size else 0.0
    return [] if worst <= limit else [f"{at}: media differ by {worst}"]
