import numpy as np
import pytest
from transformers.pipelines.automatic_speech_recognition import chunk_iter

from dray.pipelines.media.chunking import Window, chunks, spans


class Recorder:
    """Stands in for a feature extractor: keeps the chunk."""

    sampling_rate = 16_000

    def __call__(self, chunk, **_):
        return {"chunk": chunk}


@pytest.mark.parametrize("total", [1, 7, 19, 20, 21, 32, 33, 100, 257])
@pytest.mark.parametrize("window", [Window(20, 4, 4), Window(20, 0, 0), Window(20, 8, 2), Window(7, 0, 3)])
@pytest.mark.parametrize("block", [1, 5, 20, 1000])
def test_chunks_are_those_of_transformers(total, window, block):
    samples = np.arange(total, dtype=np.float32)
    expected = list(chunk_iter(samples, Recorder(), window.length, window.left, window.right))
    got = list(chunks((samples[i : i + block] for i in range(0, total, block)), window))
    assert [span.stride for _, span in got] == [item["stride"] for item in expected]
    assert [span.is_last for _, span in got] == [item["is_last"] for item in expected]
    for (chunk, span), item in zip(got, expected, strict=True):
        np.testing.assert_array_equal(chunk, item["chunk"])
        np.testing.assert_array_equal(chunk, samples[span.start : span.stop])
    assert [span for _, span in got] == list(spans(total, window))


def test_an_empty_stream_has_no_chunks():
    assert list(chunks([], Window(20, 4, 4))) == []


def test_seconds_are_rounded_to_frames():
    assert Window.of(10, None, 16_000, 320) == Window(160_000, 26_560, 26_560)
    assert Window.of(10, [2, 1], 16_000, 320) == Window(160_000, 32_000, 16_000)


def test_strides_longer_than_the_chunk_are_refused():
    with pytest.raises(ValueError, match=r"chunk_length_s=4 must be longer than both strides together \(2 \+ 2 s\)"):
        Window.of(4, 2, 16_000, 1)
