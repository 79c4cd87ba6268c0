"""Recordings and pictures as files: sound ones, and some that few programs would write."""

import functools
import io
import struct
import zlib

import av
import numpy as np
import soundfile
from PIL import Image

from support import builders, tiny_vision


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
