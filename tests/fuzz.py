"""Bad inputs through the operators: each row ends in a prediction or an error, and nothing else happens.

As a script (`python tests/fuzz.py [count] [seed]`) it feeds `count` inputs to a process of its own, so that a crash is seen,
prints what became of each kind, and exits with 1 if anything else than a result or a failed row came out.
"""

import base64
import ctypes
import functools
import io
import json
import logging
import multiprocessing
import os
import resource
import struct
import sys
import tempfile
import time
import warnings
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import arrow
import av
import builders
import conformance
import numpy as np
import pyarrow as pa
import soundfile
import tiny_audio
import tiny_text
import tiny_vision
import transformers
from comparing import differences
from PIL import Image

from jobs.operators import Fused, Worker
from jobs.rows import ARGUMENT
from pipelines import fetch
from pipelines.config import parse_config
from pipelines.models.loading import load_phases

MEDIA_BYTES = 4 << 20  # input.max_media_bytes of every stream
PEAK_BYTES = 3 << 30  # that the process may hold, torch, libraries and all models included
ADDRESSES = 12 << 30  # it may ask for; more raises MemoryError, which no row may end in
ROW_SECONDS, BLOCK_SECONDS = 30, 180
BLOCK, GOOD = 40, 2  # rows of a block, and how many of them are sound

Rng = np.random.Generator
Made = tuple[str, object]  # (kind, cell)
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ARRAY = pa.struct([("array", pa.list_(pa.float64())), ("sampling_rate", pa.float64())])
CHANNELS = pa.struct([("array", pa.list_(pa.list_(pa.float32()))), ("sampling_rate", pa.int64())])
PIXELS = pa.list_(pa.list_(pa.list_(pa.int32())))
CHAT = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
PART = pa.struct([("type", pa.string()), ("text", pa.string()), ("image", pa.binary())])
PARTS = pa.list_(pa.struct([("role", pa.string()), ("content", pa.list_(PART))]))


def pick(rng: Rng, choices: dict[str, Callable[[], object]]) -> Made:
    """One of the choices, with its name."""
    name = list(choices)[int(rng.integers(len(choices)))]
    return name, choices[name]()


def noise(rng: Rng, longest: int = 4000) -> bytes:
    return rng.bytes(int(rng.integers(longest)))


def spoilt(rng: Rng, data: bytes) -> Made:
    """A file with something wrong in it."""
    cut = int(rng.integers(len(data)))
    spoilt = bytearray(data)
    for _ in range(int(rng.integers(1, 30))):
        spoilt[int(rng.integers(len(spoilt)))] = int(rng.integers(256))
    header = int(rng.integers(min(80, len(data))))
    size = int(rng.choice([1, 2, 4]))
    value = bytes(rng.choice([b"\xff", b"\x00", b"\x7f", b"\x80"])) * size
    return pick(
        rng,
        {
            "truncated": lambda: data[:cut],
            "end only": lambda: data[cut:],
            "flipped bytes": lambda: bytes(spoilt),
            "wrong header": lambda: data[:header] + value + data[header + size :],
            "another's header": lambda: rng.choice([b"RIFF", b"fLaC", b"OggS", b"\x89PNG", b"GIF89a", b"ID3\x03"]) + data[4:],
            "a hole": lambda: data[:cut] + data[cut + 100 :],
            "zeros inside": lambda: data[:cut] + bytes(1000) + data[cut + 1000 :],
            "twice": lambda: data + data,
        },
    )


def wav(samples: np.ndarray, rate: int = builders.RATE, kind: str = "WAV", subtype: str | None = "FLOAT") -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@functools.cache
def recordings() -> dict[str, bytes]:
    """Sound ones, of every container."""
    sound = builders.sound(0.6)
    files = {f"{kind} {sub}": wav(sound, kind=kind, subtype=sub) for kind, sub in (
        ("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None), ("AIFF", "PCM_16"),
    )}  # fmt: skip
    for container, codec in (("mp4", "aac"), ("matroska", "pcm_s16le"), ("mpegts", "mp2")):
        file = io.BytesIO()
        with av.open(file, "w", format=container) as output:
            output.metadata["title"] = "PLACEHOLDER"
            stream = output.add_stream(codec, rate=builders.RATE, layout="mono")
            frame = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], "s16", "mono")
            frame.sample_rate = builders.RATE
            output.mux([*stream.encode(frame), *stream.encode(None)])
        files[container] = file.getvalue()
    return files


@functools.cache
def silence(minutes: int) -> bytes:
    return wav(np.zeros(minutes * 60 * builders.RATE, np.float32), kind="FLAC", subtype="PCM_16")


def audio_file(rng: Rng) -> Made:
    sound = builders.sound(0.3, int(rng.integers(99)))
    files = list(recordings().values())
    one = files[int(rng.integers(len(files)))]
    rate = int(rng.choice([1, 7, 384_000, 655_350, 9_999_999, 2**31 - 1]))
    broken = np.where(rng.random(len(sound)) < 0.01, rng.choice([np.nan, np.inf, -np.inf, 1e38]), sound)
    if rng.random() < 0.6:
        return spoilt(rng, one)
    if rng.random() < 0.01:
        return "20 minutes of silence", silence(20)
    kinds = {
        "sound": lambda: one,
        "not finite": lambda: wav(broken),
        "no samples": lambda: wav(sound[:0], kind=str(rng.choice(["WAV", "FLAC", "AIFF"])), subtype="PCM_16"),
        "one sample": lambda: wav(sound[:1]),
        "8 channels": lambda: wav(np.stack([sound] * 8, 1), 384_000),
        "1024 channels": lambda: wav(np.zeros((20, 1024), np.float32)),
        "odd rate": lambda: wav(sound[: int(rng.integers(80))] if rate < 99 else sound, rate),
        "1 Hz, long": lambda: wav(sound[:600], 1),
        "noise": lambda: noise(rng),
        "zeros": lambda: bytes(int(rng.integers(5000))),
        "a picture": lambda: picture_file(rng)[1],
        "a film": lambda: tiny_vision.film(2),
        "a playlist": lambda: (
            f"ffconcat version 1.0\nfile '{rng.choice(['a.wav', '/etc/passwd', 'http://127.0.0.1:9/a'])}'".encode()
        ),
        "another playlist": lambda: b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n#EXT-X-ENDLIST\n",
        "tags not UTF-8": lambda: recordings()["matroska"].replace(b"PLACEHOLDER", b"\xe4\xf6\xfc\xff-------"),
    }
    return pick(rng, kinds)


def png(width: int, height: int, *chunks: tuple[bytes, bytes], depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG that says what it likes."""
    header = struct.pack(">IIBBBBB", width, height, depth, 0, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in parts
    )


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def of_mode(mode: str) -> bytes:
    """A picture of an unusual mode, in a format that has it."""
    grey = tiny_vision.picture(40, 30, "L")
    kind = "PNG" if mode in ("1", "I;16", "LA", "P", "RGBA") else "TIFF"
    if mode == "I;16":
        return saved(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), kind)
    if mode == "P":
        return saved(grey.convert("RGB").quantize(8), kind, transparency=b"\x00\x80\xff")
    return saved(grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "RGBA") else grey.convert(mode), kind)


@functools.cache
def pictures() -> list[bytes]:
    image = tiny_vision.picture(60, 50)
    return [saved(image, kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "ICO", "TGA", "PPM", "JPEG2000")]


@functools.cache
def frames(kind: str, count: int) -> bytes:
    images = [tiny_vision.picture(30, 20, "L", seed) for seed in range(count)]
    return saved(images[0], kind, save_all=True, append_images=images[1:])


@functools.cache
def flat(width: int, height: int) -> bytes:
    return png(width, height, rows=bytes((width + 1) * height))


def picture_file(rng: Rng) -> Made:
    one = pictures()[int(rng.integers(len(pictures())))]
    mode = str(rng.choice(["1", "I;16", "LA", "P", "RGBA", "CMYK", "F", "I", "YCbCr"]))
    if rng.random() < 0.6:
        return spoilt(rng, one)
    side = int(rng.choice([0, 100_000, 2**31 - 1, 2**16, 14_000]))
    exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0" + noise(rng, 12)
    kinds = {
        "sound": lambda: one,
        f"mode {mode}": lambda: of_mode(mode),
        "huge dimensions": lambda: png(side, side, rows=bytes(100)),
        "BMP of huge dimensions": lambda: (
            b"BM" + bytes(12) + struct.pack("<IiiHHIIiiII", 40, side, side, 1, 32, 0, 0, 0, 0, 0, 0)
        ),
        "TIFF of huge tiles": lambda: tiff_of_tiles(int(rng.choice([16, 30_000, 2**31 - 16]))),
        "bomb": lambda: flat(6000, 6000),
        "narrow": lambda: flat(*((1, 50_000) if rng.random() < 0.5 else (200_000, 1))),
        "text bomb": lambda: png(5, 5, (b"zTXt", b"a\0\0" + zlib.compress(bytes(20 << 20))), rows=bytes(30)),
        "bad EXIF": lambda: png(5, 5, (b"eXIf", exif), rows=bytes(30)),
        "bad profile": lambda: png(5, 5, (b"iCCP", b"a\0\0" + noise(rng)), rows=bytes(30)),
        "many frames": lambda: frames(str(rng.choice(["GIF", "TIFF", "WEBP"])), 200),
        "noise": lambda: noise(rng),
        "empty": lambda: b"",
        "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='1e9' height='1e9'/>",
        "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n%%EndComments\nshowpage\n",
        "a recording": lambda: recordings()["WAV PCM_16"],
    }
    return pick(rng, kinds)


def tiff_of_tiles(size: int) -> bytes:
    """A TIFF of 10 by 10 pixels in one compressed tile of `size` by `size`."""
    tags = [
        (256, 4, 10),
        (257, 4, 10),
        (258, 3, 8),
        (259, 3, 8),
        (262, 3, 1),
        (277, 3, 1),
        (322, 4, size),
        (323, 4, size),
        (324, 4, 8),
    ]
    tags.append((325, 4, 100))
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    data = zlib.compress(bytes(99_999)).ljust(200, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def named(file: Callable[[Rng], Made]) -> Callable[[Rng], Made]:
    """Files of that sort as strings: paths, URLs, base64; not all of them well."""

    def make(rng: Rng) -> Made:
        kind, data = file(rng)
        encoded = base64.b64encode(data).decode()
        if rng.random() < 0.5:
            return f"base64: {kind}", encoded
        letters = "".join(map(chr, rng.integers(1, 0x2FF, 40)))
        kinds = {
            f"data URL: {kind}": lambda: f"data:any/thing;base64,{encoded}",
            "data URL without data": lambda: "data:audio/wav;base64",
            "base64 cut": lambda: encoded[:-1],
            "no such path": lambda: f"/nowhere/{letters}",
            "a folder": lambda: str(rng.choice(["/", ".", "~", "/proc", "file:///"])),
            "a path with NUL": lambda: str(rng.choice(["a\0b", "~\0", "file://\0"])),
            "a device": lambda: str(rng.choice(["/dev/zero", "/dev/null"])),
            "empty": lambda: "",
            "a very long path": lambda: "a/" * 100_000,
            "unknown protocol": lambda: f"{rng.choice(['nope', 'zip', 'dir', '', 'memory'])}://{letters}",
            "URL that is none": lambda: f"http://[{letters}",
            "not UTF-8": lambda: noise(rng),
        }
        return pick(rng, kinds)

    return make


def boxed(file: Callable[[Rng], Made]) -> Callable[[Rng], Made]:
    """Files of that sort as `datasets` has them."""

    def make(rng: Rng) -> Made:
        kind, data = file(rng)
        odd = {
            "null": lambda: None,
            "nothing": lambda: {"bytes": None, "path": None},
            "a path": lambda: {"path": valid(named(file)(rng))[1]},
        }
        return pick(rng, odd) if rng.random() < 0.1 else (kind, {"bytes": data, "path": "gone"})

    return make


def samples(rng: Rng) -> Made:
    sound = builders.sound(0.2, int(rng.integers(99))).astype(float)
    rates = [0, -1, 0.5, 1, 8000, 22_050.5, 384_000, 1e7, 1e12, np.nan, np.inf, -np.inf]
    rate = float(rng.choice(rates))
    kinds = {
        "sound": lambda: (sound, 16_000),
        "odd rate": lambda: (sound[:50] if rate < 8000 else sound, rate),
        "no rate": lambda: (sound, None),
        "1 Hz, long": lambda: (np.zeros(600), 1),
        "not finite": lambda: (np.where(rng.random(len(sound)) < 0.01, rng.choice([np.nan, np.inf]), sound), 16_000),
        "beyond float32": lambda: (sound * 1e300, 16_000),
        "empty": lambda: ([], 16_000),
        "one sample": lambda: ([0.1], rate),
        "nulls": lambda: ([0.0, None] * 50, 16_000),
        "denormals": lambda: (sound * 1e-310, 16_000),
        "no array": lambda: (None, 16_000),
    }
    kind, (array, rate) = pick(rng, kinds)
    return kind, {"array": array, "sampling_rate": rate}


def channels(rng: Rng) -> Made:
    sound = builders.sound(0.2, int(rng.integers(99))).tolist()
    kinds = {
        "8 channels": lambda: [sound] * 8,
        "one channel": lambda: [sound],
        "10,000 channels": lambda: [[0.1, 0.2]] * 10_000,
        "different lengths": lambda: [sound, sound[1:]],
        "no channels": list,
        "empty channels": lambda: [[], []],
        "a null channel": lambda: [sound, None],
        "infinities that cancel": lambda: [[np.inf] * 99, [-np.inf] * 99],
    }
    kind, array = pick(rng, kinds)
    return kind, {"array": array, "sampling_rate": int(rng.choice([1, 16_000, 384_000])) if len(array) > 8 else 384_000}


def pixels(rng: Rng) -> Made:
    shape = [int(size) for size in rng.choice([0, 1, 2, 3, 4, 5, 30], 3)]
    kinds = {
        "sound": lambda: rng.integers(0, 256, (20, 30, 3)).tolist(),
        "odd shape": lambda: rng.integers(0, 256, shape).tolist(),
        "beyond bytes": lambda: rng.integers(-300, 300, (9, 9, 3)).tolist(),
        "ragged": lambda: [[[1, 2, 3]], [[1, 2, 3]] * 2],
        "nulls": lambda: [[[1, None, 3]]],
        "narrow": lambda: [[[1, 2, 3]] * 20_000],
    }
    return pick(rng, kinds)


def letters(rng: Rng, longest: int = 300) -> str:
    """Any characters but surrogates."""
    points = rng.integers(0, rng.choice([0x80, 0x300, 0xD800, 0x110000]), int(rng.integers(longest)))
    return "".join(chr(point) for point in points if not 0xD800 <= point < 0xE000)


def text(rng: Rng) -> Made:
    if rng.random() < 0.01:
        return pick(
            rng,
            {
                "10 MB, one word": lambda: "a" * 10_000_000,
                "10 MB of emoji": lambda: "\U0001f600" * 2_500_000,
                "10 MB of spaces": lambda: " " * 10_000_000,
            },
        )
    kinds = {
        "sound": lambda: builders.text(rng, int(rng.integers(1, 40))),
        "empty": lambda: "",
        "blank": lambda: " \t\n\u2028\u200b" * int(rng.integers(5)),
        "any letters": lambda: letters(rng),
        "controls": lambda: "".join(map(chr, rng.integers(0, 32, 50))),
        "special tokens": lambda: "[CLS][SEP][PAD][MASK]<|end|><|user|><image><s></s>" * int(rng.integers(1, 9)),
        "marks upon marks": lambda: "e" + "\u0301" * int(rng.integers(5000)),
        "too many words": lambda: builders.text(rng, int(rng.integers(500, 3000))),
        "one long word": lambda: "a" * int(rng.integers(200_000)),
        "not UTF-8": lambda: noise(rng) + b"\xff",
        "a lone surrogate": lambda: "the \ud800 of".encode("utf-8", "surrogatepass"),
        "a lone surrogate, escaped": lambda: '{"text": "\\ud800"}',
        "template": lambda: "{{ 7 * '7' }}{% for a in range(10**9) %}x{% endfor %}",
        "null": lambda: None,
    }
    return pick(rng, kinds)


def long_text(rng: Rng) -> Made:
    """For models that know how long a text may be."""
    return ("10 MB of words", "the of " * 1_500_000) if rng.random() < 0.001 else text(rng)


def valid(cell: Made) -> Made:
    """For nested columns, which are made from Python's strings."""
    kind, value = cell
    return kind, value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def chat(rng: Rng) -> Made:
    kind, content = valid(text(rng))
    role = str(rng.choice(["user", "system", "assistant", "tool", "", "no such role"]))
    kinds = {
        f"content: {kind}": lambda: [{"role": "user", "content": content}],
        "odd role": lambda: [{"role": role, "content": "the"}],
        "no messages": list,
        "null message": lambda: [None],
        "null role": lambda: [{"role": None, "content": "the"}],
        "many messages": lambda: [{"role": "user", "content": "who"}] * int(rng.integers(100)),
        "null": lambda: None,
    }
    return pick(rng, kinds)


def parts(rng: Rng) -> Made:
    kind, content = valid(text(rng))
    kinds = {
        f"text: {kind}": lambda: [{"type": "text", "text": content}],
        "no parts": list,
        "null part": lambda: [None],
        "unknown type": lambda: [{"type": letters(rng), "text": "the"}],
        "null type": lambda: [{"type": None, "text": "the"}],
        "an image for a text model": lambda: [{"type": "image", "image": picture_file(rng)[1]}],
        "an image that is null": lambda: [{"type": "image", "image": None}],
        "null": lambda: None,
    }
    kind, content = pick(rng, kinds)
    return kind, [{"role": "user", "content": content}]


def deep(rng: Rng) -> str:
    depth = int(rng.choice([10, 300, 900, 1100, 5000, 1_000_000]))
    opening, closing = [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")][int(rng.integers(3))]
    return opening * depth + "1" + closing * (depth if rng.random() < 0.8 else 0)


def json_like(sound: object) -> Callable[[Rng], Made]:
    """JSON that is to be like `sound`, and mostly is not."""

    def make(rng: Rng) -> Made:
        good = json.dumps(sound)
        if rng.random() < 0.3:
            kind, data = spoilt(rng, good.encode())
            return f"JSON, {kind}", data
        kinds = {
            "sound": lambda: good,
            "deep": lambda: deep(rng),
            "deep inside": lambda: json.dumps([sound, "DEEP"]).replace('"DEEP"', deep(rng)),
            "no JSON": lambda: letters(rng),
            "a scalar": lambda: str(rng.choice(["1", "null", '"a"', "NaN", "-Infinity", "1e999", "true"])),
            "nothing in it": lambda: str(rng.choice(["[]", "{}", "[[]]", "[{}]", '{"a": {}}', '{"a": []}'])),
            "digits": lambda: "[" + "1" * int(rng.choice([300, 5000, 1_000_000])) + "]",
            "lone surrogates": lambda: good.replace("a", "\\ud800").replace('"', '"\\udfff', 1),
            "surrogate keys": lambda: '{"\\ud800": ["\\udfff"], "b": ["c"]}',
            "records without common keys": lambda: json.dumps([{f"k{i}": i} for i in range(int(rng.choice([20, 5000])))]),
            "columns without common keys": lambda: json.dumps({f"k{i}": {f"r{i}": i} for i in range(3000)}),
            "different lengths": lambda: '{"a": [1, 2], "b": [1]}',
            "long": lambda: json.dumps([sound] * int(rng.choice([10, 2000]))),
            "a long string": lambda: json.dumps([{"word": "a" * int(rng.choice([1000, 10_000_000])), "box": [0, 0, 1, 1]}]),
            "the same key again": lambda: "{" + '"a": ["b"], ' * 1000 + '"a": ["c"]}',
            "empty": lambda: "",
        }
        return pick(rng, kinds)

    return make


@dataclass(frozen=True)
class Stream:
    """Inputs of one column type, for one model."""

    task: str
    build: Callable[[Path], str]
    argument: str
    type: pa.DataType
    make: Callable[[Rng], Made]
    good: tuple[object, ...]
    parameters: dict[str, object] = field(default_factory=dict)
    others: dict[str, object] = field(default_factory=dict)


def image_classifier(folder: Path) -> str:
    """One whose processor fixes the shorter side, as most do."""
    processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=tiny_vision.SQUARE)
    model = tiny_vision.create(transformers.ViTForImageClassification, tiny_vision.vit_config(**tiny_vision.LABELS))
    return tiny_vision.keep(model, folder, processor)


def streams() -> dict[str, Stream]:
    """Every model with every type of column that it takes."""
    sound, image = recordings()["WAV PCM_16"], pictures()[0]
    text64 = [base64.b64encode(data).decode() for data in (sound, image)]
    wave = builders.sound(0.5)
    audio = {
        "bytes": (pa.binary(), audio_file, (sound, recordings()["mp4"])),
        "structs": (STRUCT, boxed(audio_file), ({"bytes": sound}, {"bytes": recordings()["FLAC PCM_16"]})),
        "strings": (pa.string(), named(audio_file), (text64[0], f"data:audio/wav;base64,{text64[0]}")),
        "arrays": (ARRAY, samples, ({"array": wave, "sampling_rate": 16_000}, {"array": wave, "sampling_rate": 8000})),
        "channels": (CHANNELS, channels, tuple({"array": [wave] * n, "sampling_rate": 8000 * n} for n in (1, 2))),
    }  # fmt: skip
    images = {
        "bytes": (pa.binary(), picture_file, (image, pictures()[1])),
        "structs": (STRUCT, boxed(picture_file), ({"bytes": image}, {"bytes": pictures()[2]})),
        "strings": (pa.string(), named(picture_file), (text64[1], f"data:image/png;base64,{text64[1]}")),
        "pixels": (PIXELS, pixels, (np.zeros((9, 9, 3), int).tolist(), np.ones((20, 30, 3), int).tolist())),
    }
    texts = (pa.string(), long_text, tuple(builders.texts(2, 3, 9.0)))
    said = [{"role": "user", "content": "who are they"}]
    shown = [{"role": "user", "content": [{"type": "text", "text": "who are they"}]}]
    table = {"people": ["many", "some"], "time": ["12", "7"]}
    boxes = [{"word": word, "box": box} for word, box in tiny_text.boxes("who are they now")]
    asked = {"a": {"type": "noul", "instructions": "is there more water"}}
    speech, classes = "automatic-speech-recognition", "audio-classification"
    few = {"do_sample": False, "max_new_tokens": 2}
    page = {"image": image, "question": "who"}
    made = {}
    for name, form in audio.items():
        made[f"speech, {name}"] = Stream(speech, builders.ctc, "audio", *form)
        made[f"speech in chunks, {name}"] = Stream(speech, builders.ctc, "audio", *form, {"chunk_length_s": 5})
        made[f"audio, {name}"] = Stream(classes, tiny_audio.wav2vec2, "audio", *form)
    for name, form in images.items():
        made[f"images, {name}"] = Stream("image-classification", image_classifier, "image", *form)
    for name, task, build in (
        ("texts", "text-classification", builders.text_classifier),
        ("embeddings", "feature-extraction", builders.text_encoder),
        ("entities", "token-classification", tiny_text.token_classifier),
    ):
        made[name] = Stream(task, build, "text", *texts)
    writer = ("text-generation", tiny_text.chat_model, "text")
    made["prompts"] = Stream(*writer, pa.string(), text, texts[2], few)
    made["chats"] = Stream(*writer, CHAT, chat, (said, said * 3), few)
    made["chats of parts"] = Stream(*writer, PARTS, parts, (shown, shown * 3), few)
    for name, task, build, argument, sound_json, others in (
        ("tables", "table-question-answering", tiny_text.tapas, "table", table, {"query": "how many"}),
        ("boxes", "document-question-answering", tiny_text.layoutlm, "word_boxes", boxes, page),
        ("questions", "decision", tiny_text.chat_model, "questions", asked, {"state": "the words"}),
    ):
        goods = (json.dumps(sound_json), json.dumps(sound_json, indent=1))
        made[name] = Stream(task, build, argument, pa.string(), json_like(sound_json), goods, {}, others)
    return made


def column(cells: list[object], kind: pa.DataType) -> pa.Array:
    """Cells as a column; strings whatever bytes they have, as files may hold them."""
    if pa.types.is_string(kind):
        data = [cell.encode("utf-8", "replace") if isinstance(cell, str) else cell for cell in cells]
        return pa.array(data, pa.binary()).view(pa.string())
    return pa.array(cells, kind)


def block(stream: Stream, seed: tuple[int, ...], count: int) -> list[Made]:
    """`count` cells; every row's own seed is (*seed, row). Some are sound ones."""
    return [
        ("GOOD", stream.good[row % len(stream.good)])
        if count > GOOD and row % (count // GOOD) == 1
        else stream.make(np.random.default_rng([*seed, row]))
        for row in range(count)
    ]


class Fuzzer:
    """The models and operators, each made when first asked for, and what they say to rows that are alone."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.streams = folder, streams()

    @functools.cache  # noqa: B019  # lives as long as the process
    def worker(self, name: str) -> Worker:
        stream = self.streams[name]
        folder = self._folder / stream.build.__name__
        if not (folder / "config.json").exists():
            stream.build(folder)
        limits = {"input": {"path": "-", "max_media_bytes": MEDIA_BYTES}, "errors": {"timeout_s": 20}}
        raw = {"task": stream.task, "model": str(folder), "parameters": stream.parameters, "engine": {"batch": 4}}
        config = parse_config({**raw, **limits, "output": {"path": "-"}})
        columns = {stream.argument: stream.type, **{key: pa.scalar(value).type for key, value in stream.others.items()}}
        return Worker(config, load_phases(config, weights=False).schema(columns), threads=1, accelerator=False)

    @functools.cache  # noqa: B019
    def fused(self, name: str) -> Fused:
        return Fused(self.worker(name))

    def table(self, name: str, cells: list[object]) -> pa.Table:
        stream = self.streams[name]
        table = arrow.table_of([stream.others] * len(cells)) if stream.others else arrow.table_of([{"text": ""}] * len(cells))
        if not stream.others:
            table = table.drop_columns(ARGUMENT + "text")
        return table.append_column(ARGUMENT + stream.argument, column(cells, stream.type))

    @functools.cache  # noqa: B019
    def alone(self, name: str, which: int) -> object:
        got = self.fused(name)(self.table(name, [self.streams[name].good[which]]))
        assert got["error"][0].as_py() is None, (name, got["error"])
        return got["prediction"][0].as_py()

    def run(self, name: str, made: list[Made], layout: str = "fused") -> tuple[list[tuple[str, str, float]], list[str]]:
        """(kind, type and message of the error or "", seconds) of each row; and what should not have been."""
        table = self.table(name, [cell for _, cell in made])
        got = self.fused(name)(table) if layout == "fused" else conformance.staged(self.worker(name), table)
        got.validate(full=True)
        wrong = [] if got.num_rows == len(made) else [f"{len(made)} rows became {got.num_rows}"]
        rows = []
        for index, (kind, row) in enumerate(
            zip([kind for kind, _ in made], got.select(["prediction", "error", "meter"]).to_pylist(), strict=False)
        ):
            seconds = sum(row["meter"][f"{phase}_s"] for phase in ("preprocess", "forward", "postprocess"))
            problem = self._problem(name, index, kind, row, seconds)
            wrong += [f"{kind} (row {index}): {problem}"] if problem else []
            rows.append((kind, f"{row['error']['type']}: {row['error']['message']}" if row["error"] else "", seconds))
        return rows, wrong

    def _problem(self, name: str, index: int, kind: str, row: dict[str, object], seconds: float) -> str | None:
        error, prediction = row["error"], row["prediction"]
        if (error is None) == (prediction is None):
            return "neither a prediction nor an error" if error is None else "a prediction and an error"
        if seconds > ROW_SECONDS:
            return f"took {seconds:.0f} s"
        if error is None:
            good = self.streams[name].good
            different = kind == "GOOD" and differences(prediction, self.alone(name, index % len(good)))
            return f"another prediction than alone: {different[0]}" if different else None
        if kind == "GOOD":
            return f"failed beside others: {error['message']}"
        if error["stage"] not in ("read", "preprocess", "forward", "postprocess") or not error["type"]:
            return f"incomplete error: {error}"
        if not 0 < len(error["message"].strip()) <= 2000:
            return f"a message of {len(error['message'])} characters"
        if error["type"] == "MemoryError" or "can't allocate memory" in error["message"]:
            return f"wanted too much memory: {error['message']}"
        return None


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def quiet() -> None:
    """No words of decoders, and no waiting for hosts that do not exist."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    fetch.FIRST_PAUSE = 0.01


def work(pipe: multiprocessing.connection.Connection, folder: str) -> None:
    """The child: blocks in, reports out, until None."""
    quiet()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    fuzzer = Fuzzer(Path(folder))
    while (order := pipe.recv()) is not None:
        name, seed, count, row, layout = order
        made = block(fuzzer.streams[name], seed, count)
        if row is not None:
            pipe.send(made[row][0])
        started = time.monotonic()
        try:
            report = fuzzer.run(name, made if row is None else [made[row]], layout)
        except Exception as error:  # what would have stopped a job
            report = [], [f"{type(error).__name__}: {str(error)[:300]}"]
        pipe.send((*report, peak(), time.monotonic() - started))
        if sys.platform == "linux":  # what is free and not given back would count at the next block
            ctypes.CDLL(None).malloc_trim(0)


class Child:
    """A process for the work; a new one after each death."""

    def __init__(self, folder: str) -> None:
        self._folder, self._process = folder, None

    def do(self, *order: object) -> object:
        """The report on an order; a string where the process died or hung over it."""
        if self._process is None:
            context = multiprocessing.get_context("spawn")
            self._pipe, theirs = context.Pipe()
            self._process = context.Process(target=work, args=(theirs, self._folder), daemon=True)
            self._process.start()
            theirs.close()
        self._pipe.send(order)
        kind = ""
        try:
            while self._pipe.poll(BLOCK_SECONDS):
                report = self._pipe.recv()
                if not isinstance(report, str):
                    return report
                kind = report
            end = f"not done after {BLOCK_SECONDS} s"
        except (EOFError, ConnectionError):
            self._process.join()
            end = f"the process died with exit code {self._process.exitcode}"
        self._process.kill()
        self._process.join()
        self._process = None
        return f"{kind}: {end}"


class Report:
    """What became of the inputs, by stream and kind."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], list[tuple[str, float]]] = defaultdict(list)
        self.wrong: list[str] = []
        self.peak, self.rows = 0, 0

    def add(self, child: Child, name: str, seed: tuple[int, ...], count: int, layout: str) -> None:
        """One block; where it kills the process, or stops it, each of its rows alone."""
        got = child.do(name, seed, count, None, layout)
        self.rows += count
        if isinstance(got, tuple) and (got[0] or not got[1]):
            rows, wrong, peak, _ = got
            self.peak = max(self.peak, peak)
            for kind, error, seconds in rows:
                self.kinds[name, kind].append((error, seconds))
            self.wrong += [f"{name}, seed {seed}, {layout}: {each}" for each in wrong]
            if peak > PEAK_BYTES:
                self.wrong.append(f"{name}, seed {seed}: {peak >> 20} MiB held; the bound is {PEAK_BYTES >> 20} MiB")
            return
        self.wrong.append(f"{name}, seed {seed}, {layout}: {got if isinstance(got, str) else got[1][0]}")
        for row in range(count):
            one = child.do(name, seed, count, row, layout)
            if isinstance(one, str) or one[1]:
                self.wrong.append(f"{name}, seed {seed}, row {row}, {layout}: {one if isinstance(one, str) else one[1][0]}")

    def print(self, seconds: float) -> None:
        """A line for each kind, then the sums."""
        print(f"{'stream, kind':<62}{'results':>8}{'failed':>7}{'slowest':>9}  most frequent error")
        for (name, kind), rows in sorted(self.kinds.items()):
            errors = Counter(error for error, _ in rows if error)
            most = ascii(errors.most_common(1)[0][0][:100])[1:-1] if errors else ""
            slowest = max(took for _, took in rows)
            print(f"{f'{name}: {kind}':<62}{len(rows) - errors.total():>8}{errors.total():>7}{slowest:>8.2f}s  {most}")
        rows = [row for each in self.kinds.values() for row in each]
        failed = sum(bool(error) for error, _ in rows)
        print(f"\n{self.rows} inputs in {seconds:.0f} s: {len(rows) - failed} results, {failed} failed rows, "
              f"{self.rows - len(rows)} neither; slowest row {max((row[1] for row in rows), default=0):.1f} s; "
              f"peak memory {self.peak >> 20} MiB (bound {PEAK_BYTES >> 20})")  # fmt: skip
        for each in self.wrong:
            print("VIOLATION", ascii(each))


def main(count: int = 10_000, seed: int = 0) -> int:
    """Feeds the inputs and prints the report; 1 where something else than a result or a failed row came out."""
    quiet()
    names, report, started = list(streams()), Report(), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        child = Child(folder)
        for number, first in enumerate(range(0, count, BLOCK)):
            layout = "staged" if number % (5 * len(names)) >= 4 * len(names) else "fused"
            report.add(child, names[number % len(names)], (seed, number), min(BLOCK, count - first), layout)
    report.print(time.monotonic() - started)
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
