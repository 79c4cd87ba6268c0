"""Decodes recordings, as streams of mono audio at the rate that the model needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import IO, TYPE_CHECKING

import numpy as np

from dray.pipelines.errors import LimitError
from dray.pipelines.media.chunking import Samples
from dray.pipelines.media.opening import MediaOptions, opened

if TYPE_CHECKING:
    import soundfile

BLOCK_SECONDS = 10  # decoded at a time
BLOCK_SAMPLES = 1 << 22  # the most that are decoded at a time, over all channels: 16 MiB
MAX_RATE = 10_000_000  # Hz
UNKNOWN = 1 << 62  # the least number of frames that libsndfile gives for a stream of unknown length


def audio(cell: object, options: MediaOptions) -> Iterator[Samples]:
    """Yields the audio of a cell as mono float32 blocks of about BLOCK_SECONDS at `options.rate` Hz, decoded when needed.

    Args:
        cell: what `opening.opened` takes, or a struct of `array` (mono or (channels, samples)) and `sampling_rate` (Hz).
        options: the rate, the limits, and where media may come from.

    Yields:
        Blocks of at most a few times BLOCK_SAMPLES samples, whatever rate and channels a file claims to have.

    Raises:
        ValueError: the cell holds no audio, or audio that cannot be decoded.
        LimitError: the recording is longer than `options.max_seconds`.
        OSError: there is no such file.
        RowError: its URL cannot be fetched.
    """
    samples = 0
    for block in _audio(cell, options):
        samples += len(block)
        _refuse_longer(samples / options.rate, options)
        yield block


def _audio(cell: object, options: MediaOptions) -> Iterator[Samples]:
    rate = options.rate
    if isinstance(cell, Mapping) and cell.get("array") is not None:
        yield from resampled([_mono(_array(cell["array"]))], cell.get("sampling_rate"), rate)
        return
    with opened(cell, options) as file:
        sound = _sound_file(file)
        if sound is None:
            file.seek(0)
            yield from _containers_audio(file, rate)
        else:
            with sound:
                if sound.frames < UNKNOWN:
                    _refuse_longer(sound.frames / sound.samplerate, options)
                yield from resampled(_blocks(sound), sound.samplerate, rate)


def _refuse_longer(seconds: float, options: MediaOptions) -> None:
    if seconds > options.max_seconds:
        raise LimitError(f"the recording is longer than {options.max_seconds:g} s")


def whole(cell: object, options: MediaOptions) -> Samples:
    """The audio of a cell as one array, mono float32 (samples,) at `options.rate` Hz.

    Raises:
        ValueError: it holds no samples, or is larger than `options.max_bytes` when decoded; or as in `audio`.
    """
    blocks, size = [np.empty(0, np.float32)], 0
    for block in audio(cell, options):
        size += block.nbytes
        if size > options.max_bytes:
            seconds = options.max_bytes // block.itemsize // options.rate
            raise ValueError(
                f"the recording is longer than {seconds} s, which input.max_media_bytes = {options.max_bytes} allows "
                "where it must be in memory as a whole (speech recognition with chunk_length_s takes any length)"
            )
        blocks.append(block)
    if not size:
        raise ValueError("the recording holds no samples")
    return np.concatenate(blocks)


def resampled(blocks: Iterable[Samples], rate_in: object, rate_out: int) -> Iterator[Samples]:
    """Yields `blocks` at `rate_in` Hz as blocks at `rate_out` Hz. How the stream is cut does not change the samples."""
    rate = _rate(rate_in)
    if rate == rate_out:
        yield from blocks
        return
    import soxr

    stream = soxr.ResampleStream(rate, rate_out, 1, dtype="float32")
    most = max(1, BLOCK_SAMPLES * rate // max(rate, rate_out))
    for block in blocks:
        for start in range(0, len(block), most):
            yield stream.resample_chunk(block[start : start + most])
    yield stream.resample_chunk(np.empty(0, np.float32), last=True)


def _rate(value: object) -> int:
    """The sampling rate as a whole number of Hz. Raises ValueError."""
    if not isinstance(value, (int, float, np.number)) or not 1 <= value <= MAX_RATE:
        raise ValueError(f"the sampling rate must be a number of Hz from 1 to {MAX_RATE}, got {value!r}")
    return int(value)


def _sound_file(file: IO[bytes]) -> soundfile.SoundFile | None:
    """The file opened with libsndfile; None if libsndfile does not know the format."""
    import soundfile

    try:
        return soundfile.SoundFile(file)
    except soundfile.LibsndfileError:
        return None


def _blocks(sound: soundfile.SoundFile) -> Iterator[Samples]:
    import soundfile

    frames = max(1, min(BLOCK_SECONDS * sound.samplerate, BLOCK_SAMPLES // sound.channels))
    try:
        while len(block := sound.read(frames, dtype="float32", always_2d=True)):
            yield _mono(block.T)
    except soundfile.LibsndfileError as error:
        raise ValueError(f"the audio is damaged: {error.error_string}") from None


def _containers_audio(file: IO[bytes], rate: int) -> Iterator[Samples]:
    """The audio of files that PyAV opens: m4a, mp4, webm, mkv ..."""
    import av

    try:
        # A playlist must not open files on this machine. Tags may be in another encoding than UTF-8.
        with av.open(file, options={"protocol_whitelist": "none"}, metadata_errors="replace") as container:
            if not container.streams.audio:
                raise ValueError("the file holds no audio stream")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise ValueError("FFmpeg does not know how the audio in the file is encoded")
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


def _array(values: object) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise ValueError("audio given as an array must have equally many samples in each channel") from None


def _mono(channels: np.ndarray) -> Samples:
    """(samples,) or (channels, samples) as float32 (samples,): the mean of the channels, integers scaled to [-1, 1]."""
    scale = np.iinfo(channels.dtype).max + 1 if channels.dtype.kind == "i" else 1
    if channels.ndim not in (1, 2) or (channels.ndim == 2 and not len(channels)):
        raise ValueError(f"audio must be (samples,) or (channels, samples), got shape {channels.shape}")
    if channels.dtype.kind not in "biuf":
        raise ValueError("audio given as an array must hold nothing but numbers")
    with np.errstate(all="ignore"):  # values beyond float32 become infinite, and are refused below
        samples = channels if channels.ndim == 1 else channels.mean(axis=0)
        samples = np.asarray(samples / scale if scale != 1 else samples, dtype=np.float32)
    if not np.isfinite(samples).all():
        raise ValueError("the audio holds samples that are not finite numbers")
    return samples
