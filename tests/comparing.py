"""Equality of predictions: text and labels exactly, floats within a tolerance."""

import math


def differences(got: object, expected: object, tolerance: float = 1e-4, at: str = "") -> list[str]:
    """Where two predictions differ; tuples and lists count as the same."""
    if isinstance(expected, dict):
        if not isinstance(got, dict) or got.keys() != expected.keys():
            return [f"{at}: {got!r} is not {expected!r}"]
        return [d for key in expected for d in differences(got[key], expected[key], tolerance, f"{at}.{key}")]
    if isinstance(expected, (list, tuple)):
        if not isinstance(got, (list, tuple)) or len(got) != len(expected):
            return [f"{at}: {got!r} is not {expected!r}"]
        pairs = enumerate(zip(got, expected, strict=True))
        return [d for index, (one, other) in pairs for d in differences(one, other, tolerance, f"{at}[{index}]")]
    if isinstance(expected, float) and got is not None:
        return [] if math.isclose(got, expected, rel_tol=tolerance, abs_tol=tolerance) else [f"{at}: {got} != {expected}"]
    return [] if got == expected else [f"{at}: {got!r} != {expected!r}"]
