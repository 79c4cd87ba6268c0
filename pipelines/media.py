"""Recordings as streams: encoded audio and arrays in, mono audio at the wanted rate out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING

import numpy as np

from pipelines.cells import Source, opened
from pipelines.chunking import Samples

if TYPE_CHECKING:
    import soundfile

BLOCK_SECONDS = 10  # decoded at a time


def audio(cell: object, source: Source) -> Iterator[Samples]:
    """The audio of a cell as mono blocks of about BLOCK_SECONDS at the source's rate, decoded as they are asked for.

    Args:
        cell: what `cells.opened` takes, or a struct of `array` (mono or (channels, samples)) and `sampling_rate` (Hz).
        source: the rate wanted, and where media may come from.

    Raises:
        ValueError: the cell holds no audio, or audio that cannot be decoded.
        OSError: there is no such file.
        RowError: its URL cannot be fetched.
    """
    rate = source.rate
    if isinstance(cell, Mapping) and cell.get("array") is not None:
        yield from resampled([_mono(np.asarray(cell["array"]))], int(cell["sampling_rate"]), rate)
        return
    with opened(cell, source) as file:
        sound = _sound_file(file)
        if sound is None:
            file.seek(0)
            yield from _containers_audio(file, rate)
        else:
            with sound:
                yield from resampled(_blocks(sound), sound.samplerate, rate)


def resampled(blocks: Iterable[Samples], rate_in: int, rate_out: int) -> Iterator[Samples]:
    """`blocks` at `rate_in` Hz as blocks at `rate_out` Hz; the same samples however the stream is cut."""
    if rate_in <= 0:
        raise ValueError(f"the sampling rate must be above 0, got {rate_in}")
    if rate_in == rate_out:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate_in, rate_out, 1, dtype="float32")
    for block in blocks:
        yield stream.resample_chunk(block)
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _sound_file(file: IO[bytes]) -> soundfile.SoundFile | None:
    """The file as libsndfile reads it, or None where libsndfile does not know the format."""
    import soundfile

    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        return None


def _blocks(sound: soundfile.SoundFile) -> Iterator[Samples]:
    import soundfile

    try:
        while len(block := sound.read(BLOCK_SECONDS * sound.samplerate, dtype="float32", always_2d=True)):
            yield _mono(block.T)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"the audio is damaged: {error.error_string}") from None


def _containers_audio(file: IO[bytes], rate: int) -> Iterator[Samples]:
    """Audio of what PyAV opens: m4a, mp4, webm, mkv ..."""
    import av

    try:
        with av.open(file) as container:
            if not container.streams.audio:
                raise ValueError("the file holds no audio stream")
            stream = container.streams.audio[0]
            yield from resampled(_frames(container.decode(stream)), stream.rate, rate)
    except (av.FFmpegError, EOFError) as error:
        detail = getattr(error, "strerror", None) or error
        raise ValueError(f"not an audio file that libsndfile or FFmpeg can read: {detail}") from None


def _frames(frames: Iterable[object]) -> Iterator[Samples]:
    import av

    planar = av.AudioResampler(format="fltp")
    for frame in frames:
        for converted in planar.resample(frame):
            yield _mono(converted.to_ndarray())


def _mono(channels: np.ndarray) -> Samples:
    """(samples,) or (channels, samples) as float32 (samples,): the mean of the channels, integers scaled to [-1, 1]."""
    scale = np.iinfo(channels.dtype).max + 1 if channels.dtype.kind == "i" else 1
    if channels.ndim > 2:
        raise ValueError(f"audio must be (samples,) or (channels, samples), got shape {channels.shape}")
    samples = channels if channels.ndim == 1 else channels.mean(axis=0)
    samples = np.asarray(samples / scale if scale != 1 else samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("the audio holds samples that are not finite numbers")
    return samples
