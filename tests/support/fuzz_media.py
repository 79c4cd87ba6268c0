"""Cells of audio and images: files, bytes and strings, arrays and pixels, few of them well."""

import base64
import struct
import zlib
from collections.abc import Callable

import numpy as np

from support import builders, tiny_vision
from support.fuzz_files import flat, frames, of_mode, pictures, png, recordings, silence, tiff_of_tiles, wav
from support.fuzz_inputs import Made, Rng, noise, pick, spoilt, valid


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
