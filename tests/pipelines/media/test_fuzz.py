"""Inputs that nobody meant well: found by hypothesis among those of fuzz.py, and by name those that once did harm."""

import io
import json
import pickle
import struct
import tracemalloc

import av
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support import builders, fuzz, fuzz_files, fuzz_streams
from support.arrow import table_of
from support.loading import load_phases

from dray.jobs.batch.rows import error_array, errors, row_options
from dray.jobs.batch.rows import items as items_of
from dray.jobs.columns import ARGUMENT
from dray.pipelines.config import parse_config
from dray.pipelines.errors import MESSAGE_CHARACTERS, RowError
from dray.pipelines.media import audio, values
from dray.pipelines.media.opening import MediaOptions, opened

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = MediaOptions(max_bytes=1 << 20)
NAMES = list(fuzz_streams.streams())


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory):
    return fuzz.Fuzzer(tmp_path_factory.mktemp("fuzz"))


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("dray.pipelines.media.fetch.FIRST_PAUSE", 0.01)


@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(NAMES), seed=st.integers(0, 1 << 32), count=st.integers(1, 6))
def test_every_row_ends_in_a_result_or_an_error(fuzzer, name, seed, count):
    rows, wrong = fuzzer.run(name, fuzz_streams.block(fuzzer.streams[name], (seed,), count))
    assert not wrong
    assert len(rows) == count


@pytest.mark.parametrize("name", ["speech in chunks, bytes", "images, strings", "texts", "questions"])
def test_and_so_it_does_in_the_staged_layout(fuzzer, name):
    assert not fuzzer.run(name, fuzz_streams.block(fuzzer.streams[name], (7,), 12), "staged")[1]


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(message=st.text(st.characters(), max_size=50), times=st.sampled_from([0, 1, 100, 10_000]))
def test_any_message_fits_the_column(message, times):
    error = RowError.wrap("forward", ValueError(message * times))
    (stored,) = error_array([error]).to_pylist()
    assert stored["type"] == "ValueError"
    assert 0 < len(stored["message"]) <= MESSAGE_CHARACTERS
    assert str(errors(pa.table({"error": error_array([error])}))[0]) == str(error) == str(pickle.loads(pickle.dumps(error)))


def test_messages_are_escaped_shortened_and_never_missing():
    assert str(RowError("read", "ValueError", "a \ud800 b")) == "a \\ud800 b"
    long = str(RowError("read", "ValueError", "\ud800" * 10_000_000))
    assert len(long) == MESSAGE_CHARACTERS
    assert long.endswith("... (10000000 characters)")
    assert str(RowError("read", "ValueError", " ")) == "ValueError"

    class Mute(Exception):
        def __str__(self):
            raise TypeError

    assert str(RowError.wrap("read", Mute())) == "Mute"


def phases_of(models, **parameters):
    raw = {"task": "text-generation", "model": models.text_encoder, "input": {"path": "-"}, "output": {"path": "-"}}
    return load_phases(parse_config({**raw, "task": "text-classification", "parameters": parameters}), weights=False)


def test_text_that_is_not_utf8_fails_its_row_only(models):
    phases = phases_of(models)
    texts = pa.array([b"who", b"\xff\xfe", "\ud800".encode("utf-8", "surrogatepass"), None], pa.binary()).view(pa.string())
    table = table_of([{"top_k": 1}] * 4).append_column(ARGUMENT + "text", texts)
    good, *bad = items_of(table, phases)
    assert good.values == {"text": "who"}
    assert ["cannot be read" in str(error) for error in bad] == [True, True, False]
    assert [error.stage for error in bad] == ["read"] * 3
    options = table_of([{"text": "who"}] * 4).append_column(ARGUMENT + "function_to_apply", texts)
    assert [type(item).__name__ for item in items_of(options, phases)] == ["Item", "RowError", "RowError", "Item"]
    assert row_options(options, phases) == [{"function_to_apply": "who"}, {}, {}, {}]


@pytest.mark.parametrize("rate", [0, -1, 0.5, 1e12, float("nan"), float("inf"), None, "x", 2**31])
def test_absurd_sampling_rates_are_said(rate):
    with pytest.raises(ValueError, match="sampling rate must be a number of Hz from 1 to 10000000"):
        list(audio.audio({"array": np.zeros(10), "sampling_rate": rate}, SMALL))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array(0.5), "got shape"),
        (np.zeros((0, 5)), "got shape"),
        ([[1.0], [1.0, 2.0]], "equally many"),
        ([0.0, None], "nothing but numbers"),
        (np.zeros(5, complex), "nothing but numbers"),
        ([1e300], "not finite"),
        ([[np.inf], [-np.inf]], "not finite"),
    ],
)
def test_odd_arrays_are_said(array, message):
    with pytest.raises(ValueError, match=message):
        list(audio.audio({"array": array, "sampling_rate": 16_000}, SMALL))


@pytest.mark.parametrize(
    "cell",
    [
        {"array": np.zeros(1_000_000, np.float32), "sampling_rate": 1},
        fuzz_files.wav(np.zeros(100_000, np.float32), 1),
        fuzz_files.silence(20),
    ],
    ids=["array of 1 Hz", "file of 1 Hz", "silence"],
)
def test_a_recording_that_would_fill_the_memory_is_refused(cell):
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"longer than 16 s, which input.max_media_bytes = 1048576 allows"):
        values.samples(cell, SMALL)
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()


def test_blocks_are_bounded_whatever_rate_and_channels():
    for data in (fuzz_files.wav(np.zeros((40_000, 200), np.float32), 9_999_999), fuzz_files.wav(np.zeros(600, np.float32), 1)):
        blocks = list(audio.audio(data, MediaOptions()))
        assert max(len(block) for block in blocks) <= 4 * audio.BLOCK_SAMPLES
    assert abs(sum(map(len, blocks)) - 600 * 16_000) <= 1


def test_an_array_without_samples_is_said():
    for cell in ({"array": [], "sampling_rate": 16_000}, fuzz_files.wav(np.zeros(0), subtype="PCM_16")):
        with pytest.raises(ValueError, match="the recording holds no samples"):
            values.samples(cell, MediaOptions())


def test_tags_need_not_be_utf8():
    data = fuzz_files.recordings()["matroska"].replace(b"PLACEHOLDER", b"\xe4\xf6\xfc\xff-------")
    assert len(values.samples(data, MediaOptions())) == len(builders.sound(0.6))


def test_a_playlist_opens_no_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with av.open("secret.ts", "w", format="mpegts") as output:
        stream = output.add_stream("mp2", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), "s16", "mono")
        frame.sample_rate = 16_000
        output.mux([*stream.encode(frame), *stream.encode(None)])
    with pytest.raises(ValueError, match="not an audio file"):
        values.samples(b"ffconcat version 1.0\nfile 'secret.ts'\n", MediaOptions())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (fuzz_files.png(100_000, 100_000), "too large"),
        (fuzz_files.flat(1000, 1000), "1000 x 1000 pixels, decoded more than input.max_media_bytes = 1048576"),
        (fuzz_files.tiff_of_tiles(16_000), "too large: 16000 x 16000 pixels"),
        (fuzz_files.flat(1, 2000), "too narrow: 1 x 2000 pixels"),
        ([[[1, 2, 3]] * 2000], "too narrow"),
        ([[[1, 2, 3, 4, 5]]], r"got int64 in shape \(1, 1, 5\)"),
        ([[[1]], [[1]] * 2], "whole numbers from 0 to 255"),
        (bytes(2 << 20), "the file has 2097152 bytes, more than input.max_media_bytes"),
        (b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 256, 4, 1, 5), "image"),
    ],
)
def test_images_that_would_fill_the_memory_or_are_none(data, message):
    with pytest.raises(ValueError, match=message):
        values.image(data, SMALL)


def test_whatever_a_decoder_raises_is_said(monkeypatch):
    def load(picture):
        raise struct.error("unpack requires a buffer")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(ValueError, match="damaged or too large: unpack requires a buffer"):
        values.image(fuzz_files.pictures()[0], MediaOptions())


def test_a_grey_array_with_a_channel_is_an_image():
    assert values.image([[[1], [2]]], MediaOptions()).size == (2, 1)


@pytest.mark.parametrize("mode", ["1", "I;16", "LA", "P", "RGBA", "CMYK", "F", "I", "YCbCr"])
def test_unusual_modes_give_results(fuzzer, mode):
    ((_, error, _),), wrong = fuzzer.run("images, bytes", [("mode", fuzz_files.of_mode(mode))])
    assert not wrong
    assert not error


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_the_first_of_many_frames_is_the_image(kind):
    first = Image.open(io.BytesIO(fuzz_files.frames(kind, 200))).convert("L")
    assert np.array_equal(
        np.asarray(values.image(fuzz_files.frames(kind, 200), MediaOptions()).convert("L")), np.asarray(first)
    )


def test_a_path_with_letters_that_base64_has_not():
    with pytest.raises(FileNotFoundError, match="no such file"):
        opened("/nowhere/aufgenommen-für-später.flac", MediaOptions())


@pytest.mark.parametrize(
    "table",
    [
        [{f"k{i}": i} for i in range(3000)],
        {f"k{i}": {f"r{i}": i} for i in range(3000)},
        {"a": [1] * 20_000},
        {"a": ["b" * 2_000_000]},
    ],
)
def test_tables_that_would_fill_the_memory(table):
    with pytest.raises(ValueError, match="the table has"):
        values.table(json.dumps(table), MediaOptions())
