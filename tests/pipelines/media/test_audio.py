import io
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pytest
import soundfile as sf
import soxr
from support.builders import RATE, sound
from support.places import ROOT

from dray.pipelines.media import audio
from dray.pipelines.media.opening import MediaOptions

SHARED = ROOT.parent / "shared" / "media"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the folder of real media is not here")


def encoded(samples: np.ndarray, rate: int, kind: str, subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def decoded(cell: object, rate: int = RATE) -> np.ndarray:
    return np.concatenate(list(audio.audio(cell, MediaOptions(rate))))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AIFF"])
def test_lossless_bytes_come_back_exactly(kind):
    samples = np.round(sound(2.3) * 32767) / 32768
    got = decoded(encoded(samples, RATE, kind, "PCM_16"))
    np.testing.assert_allclose(got, samples, atol=1e-4)


def test_every_form_of_cell(tmp_path):
    data = encoded(sound(1), RATE, "FLAC")
    (tmp_path / "a.flac").write_bytes(data)
    expected = decoded(data)
    for cell in (
        bytearray(data),
        memoryview(data),
        pa.py_buffer(data),
        {"bytes": data, "path": "gone.flac"},
        {"bytes": None, "path": str(tmp_path / "a.flac")},
        str(tmp_path / "a.flac"),
        f"file://{tmp_path}/a.flac",
        {"array": expected, "sampling_rate": RATE},
        {"array": expected.tolist(), "sampling_rate": RATE},
        {"array": np.stack([expected, expected]), "sampling_rate": RATE},
        {"array": np.round(expected * 32768).astype(np.int16), "sampling_rate": RATE},
    ):
        np.testing.assert_allclose(decoded(cell), expected, atol=1e-4)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000])
def test_resampling_a_stream_is_resampling_the_whole(rate):
    samples = sound(25)[: 25 * rate // 2]
    got = decoded({"array": samples, "sampling_rate": rate})
    whole = soxr.resample(samples, rate, RATE)
    blocks = [samples[i : i + 999] for i in range(0, len(samples), 999)]
    streamed = np.concatenate(list(audio.resampled(blocks, rate, RATE)))
    assert abs(len(got) - len(samples) * RATE / rate) <= 1
    np.testing.assert_allclose(streamed, got, atol=1e-5)
    np.testing.assert_allclose(got, whole[: len(got)], atol=1e-3)


def test_channels_are_averaged():
    left, right = sound(1, 1), sound(1, 2)
    got = decoded(encoded(np.stack([left, right], axis=1), RATE, "WAV", "FLOAT"))
    np.testing.assert_allclose(got, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize(("container", "codec"), [("mp4", "aac"), ("webm", "libopus"), ("matroska", "pcm_s16le")])
def test_containers_that_libsndfile_does_not_know(container, codec):
    samples = sound(3)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((soxr.resample(samples, RATE, 48_000) * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            output.mux(packet)
    got = decoded(buffer.getvalue())
    assert abs(len(got) - len(samples)) < 0.15 * RATE
    power = [float(np.sqrt(np.mean(wave**2))) for wave in (got, samples)]
    assert power[0] == pytest.approx(power[1], rel=0.1)


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (b"", "not an audio file"),
        (b"not audio at all" * 100, "not an audio file"),
        ({"bytes": None, "path": None}, "the cell is empty"),
        (17, "expected media as bytes, path, URL or array, got int"),
        ({"array": [0.0, float("nan")], "sampling_rate": RATE}, "not finite"),
        ({"array": np.zeros((2, 2, 2)), "sampling_rate": RATE}, r"got shape \(2, 2, 2\)"),
        ({"array": [0.0], "sampling_rate": 0}, "sampling rate"),
    ],
)
def test_what_is_no_audio_is_said(cell, message):
    with pytest.raises(ValueError, match=message):
        decoded(cell)


def test_a_missing_file_is_said():
    with pytest.raises(OSError, match=r"nowhere\.flac"):
        decoded("/no/such/nowhere.flac")


@needs_shared
@pytest.mark.parametrize(
    "path",
    sorted(SHARED.glob("**/*.flac"))
    + sorted(SHARED.glob("**/*.wav"))
    + sorted(SHARED.glob("**/*.aiff"))
    + sorted(SHARED.glob("**/*.ogg")),
    ids=lambda path: path.name,
)
def test_real_recordings(path: Path):
    samples, rate = sf.read(path, dtype="float32", always_2d=True)
    got = decoded(str(path))
    assert abs(len(got) - len(samples) * RATE / rate) <= 2
    assert np.abs(got).max() > 0.05
