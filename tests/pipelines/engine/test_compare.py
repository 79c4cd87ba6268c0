"""Whether what is stored and what is made now are the same prediction."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from dray.pipelines.engine.compare import compare


def test_predictions_are_compared_by_what_they_are():
    def png(pixels: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(file, "PNG")
        return file.getvalue()

    grey, far = np.full((40, 40), 100), np.full((40, 40), 130)
    assert compare({"a": [1.0, None]}, {"a": [1.0, None]}, 1e-4).places == []
    assert compare([1.0, float("nan")], [1.00005, float("nan")], 1e-4).largest == pytest.approx(5e-5)
    assert compare([2000.0, 1.0], [2000.1, 1.0], 1e-4).places == []
    assert compare([2000.0, 1.0], [2000.1, 1.001], 1e-4).places == ["[1]: 1.0 is stored, and now it is 1.001"]
    assert compare([2000.0, 1.0], [2000.1, 1.001], 1e-4).largest == pytest.approx(0.1)
    assert len(compare([float("inf")], [1.0], 5.0).places) == len(compare([1.0], [float("nan")], 5.0).places) == 1
    assert compare([1.0], [1.0, 2.0], 1e-4).places == ["1 values are stored, and now there are 2"]
    assert compare({"n": 1}, {"n": 2}, 5.0).places == ["n: 1 is stored, and now it is 2"]
    assert compare(None, 0.5, 5.0).places == ["None is stored, and now it is 0.5"]
    assert compare(png(grey), png(grey + 1), 0.0).places == []
    assert len(compare(png(grey), png(far), 0.05).places) == 1
    assert len(compare(png(grey), png(grey[:20]), 0.05).places) == 1
