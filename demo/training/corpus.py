"""Training utterances of connected digits: real recordings and espeak-ng voices, mixed and distorted at random."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import soundfile as sf
import soxr
from scipy.signal import fftconvolve

RATE = 16_000  # samples per second of everything below
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
Samples = npt.NDArray[np.float32]  # (samples,), in [-1, 1]

ACCENTS = ("en", "en-us", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc", "en-gb-x-gbclan")
TIMBRES = (
    "", "m1", "m2", "m3", "m4", "m6", "m7", "f1", "f2", "f3", "f4", "croak", "klatt2", "Alex", "Andrea", "Andy",
    "Annie", "aunty", "belinda", "benjamin", "boris", "caleb", "david", "ed", "grandma", "iven", "john", "kaukovalta",
    "linda", "marco", "max", "michael", "miguel", "norbert", "pablo", "paul", "quincy", "rob", "shelby", "steph",
    "travis", "victor", "zac",
)  # fmt: skip
# Timbres that are kept out of training; the demo's speech uses them.
HELD_OUT_TIMBRES = ("m5", "m8", "f5", "Gene", "Henrique", "anika", "adam", "Mike")


@dataclass(frozen=True)
class Digit:
    """One spoken digit: its value 0..9, its samples at RATE, and its speaker."""

    value: int
    samples: Samples
    speaker: str


@dataclass(frozen=True)
class Utterance:
    """Several digits in a row. `spans` are the digits' (start, stop) samples, empty where they are not known."""

    samples: Samples
    digits: tuple[int, ...]
    spans: tuple[tuple[int, int], ...] = field(default=())

    @property
    def text(self) -> str:
        """The words, separated by single blanks."""
        return " ".join(WORDS[digit] for digit in self.digits)


def load_recordings(path: Path) -> list[Digit]:
    """Real recordings from a Parquet file with `audio` (struct of bytes, path), `digit` and `speaker`."""
    table = pq.read_table(path, columns=["audio", "digit", "speaker"])
    digits = []
    for row in table.to_pylist():
        samples, rate = sf.read(io.BytesIO(row["audio"]["bytes"]), dtype="float32")
        digits.append(Digit(row["digit"], resample(samples, rate), row["speaker"]))
    return digits


def resample(samples: Samples, rate: int) -> Samples:
    """`samples` at `rate` Hz as samples at RATE."""
    return np.asarray(soxr.resample(samples, rate, RATE), dtype=np.float32)


def speak(text: str, voice: str, words_per_minute: int = 150, pitch: int = 50) -> Samples:
    """`text` spoken by an espeak-ng voice, without silence at the ends. Raises CalledProcessError for unknown voices."""
    command = ["espeak-ng", "--stdout", "-v", voice, "-s", str(words_per_minute), "-p", str(pitch), text]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    samples, rate = sf.read(io.BytesIO(wav), dtype="float32")
    return trim(resample(samples, rate))


def trim(samples: Samples, threshold: float = 0.01) -> Samples:
    """The samples without the ends that are below `threshold` of full scale."""
    loud = np.flatnonzero(np.abs(samples) > threshold)
    return samples[loud[0] : loud[-1] + 1] if len(loud) else samples


def training_voices() -> list[str]:
    """Every accent with every training timbre, as names of espeak-ng."""
    return [f"{accent}+{timbre}" if timbre else accent for accent in ACCENTS for timbre in TIMBRES]


def speak_digits(rng: np.random.Generator, voices: Sequence[str]) -> list[Digit]:
    """Each of the ten digits once by each voice, at a random pace and pitch."""
    jobs = [(value, voice, int(rng.integers(110, 190)), int(rng.integers(25, 76))) for voice in voices for value in range(10)]

    def say(job: tuple[int, str, int, int]) -> Digit:
        value, voice, pace, pitch = job
        return Digit(value, speak(WORDS[value], voice, pace, pitch), f"espeak:{voice}")

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(say, jobs))


def speak_sentences(rng: np.random.Generator, voices: Sequence[str], count: int) -> list[Utterance]:
    """`count` sentences of 2 to 9 digits in continuous espeak-ng speech, where words run into each other."""
    jobs = []
    for _ in range(count):
        digits = tuple(int(d) for d in rng.integers(0, 10, rng.integers(2, 10)))
        jobs.append((digits, voices[int(rng.integers(len(voices)))], int(rng.integers(110, 200)), int(rng.integers(25, 76))))

    def say(job: tuple[tuple[int, ...], str, int, int]) -> Utterance:
        digits, voice, pace, pitch = job
        return Utterance(speak(" ".join(WORDS[d] for d in digits), voice, pace, pitch), digits)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(say, jobs))


class Mixer:
    """Draws random training utterances: joined recordings, joined voices and continuous voices, each distorted."""

    def __init__(self, recordings: Sequence[Digit], voices: Sequence[Digit], sentences: Sequence[Utterance], seed: int) -> None:
        """`recordings` must hold all ten digits of every speaker; so must `voices`."""
        self.rng = np.random.default_rng(seed)
        self.real, self.synthetic, self.sentences = _by_speaker(recordings), _by_speaker(voices), sentences

    def draw(self, longest: int, synthetic: float = 0.3, continuous: float = 0.2) -> Utterance:
        """An utterance of at most `longest` digits. `synthetic` and `continuous` are the shares of voices and sentences."""
        kind = self.rng.random()
        if kind < continuous and self.sentences:
            utterance = self.sentences[int(self.rng.integers(len(self.sentences)))]
        else:
            utterance = self._glue(self.synthetic if kind < continuous + synthetic else self.real, longest)
        return distort(utterance, self.rng)

    def _glue(self, speakers: dict[str, dict[int, list[Samples]]], longest: int) -> Utterance:
        rng, names = self.rng, list(speakers)
        main = names[rng.integers(len(names))]
        pieces: list[Samples] = [np.zeros(int(rng.exponential(0.15) * RATE), np.float32)]
        digits, spans, position = [], [], len(pieces[0])
        tight = rng.random() < 0.3
        for _ in range(rng.integers(1, longest + 1)):
            speaker = names[rng.integers(len(names))] if rng.random() < 0.15 else main
            value = int(rng.integers(10))
            takes = speakers[speaker][value]
            word = takes[rng.integers(len(takes))] * np.float32(10 ** (rng.uniform(-4, 4) / 20))
            gap = np.zeros(int(rng.exponential(0.01 if tight else 0.18) * RATE), np.float32)
            pieces += [word, gap]
            digits.append(value)
            spans.append((position, position + len(word)))
            position += len(word) + len(gap)
        return Utterance(np.concatenate(pieces), tuple(digits), tuple(spans))


def _by_speaker(digits: Sequence[Digit]) -> dict[str, dict[int, list[Samples]]]:
    speakers: dict[str, dict[int, list[Samples]]] = {}
    for digit in digits:
        speakers.setdefault(digit.speaker, {}).setdefault(digit.value, []).append(digit.samples)
    return speakers


def distort(utterance: Utterance, rng: np.random.Generator) -> Utterance:
    """The utterance with random speed, tone, echo, noise and level; its spans are adjusted."""
    speed = float(rng.uniform(0.84, 1.18))
    samples = _tilt(_stretch(utterance.samples, speed), rng)
    if rng.random() < 0.4:
        samples = _telephone(samples)
    if rng.random() < 0.4:
        samples = _reverberate(samples, rng)
    level = float(np.sqrt(np.mean(samples**2))) + 1e-6
    samples = samples + _noise(len(samples), rng) * np.float32(level * 10 ** (-rng.uniform(8, 45) / 20))
    samples = samples * np.float32(0.1 / level * 10 ** (rng.uniform(-14, 8) / 20))
    spans = tuple((int(start / speed), int(stop / speed)) for start, stop in utterance.spans)
    return Utterance(np.clip(samples, -1, 1).astype(np.float32), utterance.digits, spans)


def distort_lightly(samples: Samples, rng: np.random.Generator) -> Samples:
    """The samples as a decent microphone records them: with a little noise, at a fixed level."""
    level = float(np.sqrt(np.mean(samples**2))) + 1e-6
    noisy = samples + _noise(len(samples), rng) * np.float32(level * 10 ** (-rng.uniform(25, 40) / 20))
    return np.clip(noisy * np.float32(0.08 / level), -1, 1).astype(np.float32)


def _stretch(samples: Samples, speed: float) -> Samples:
    positions = np.arange(0, len(samples) - 1, speed)
    return np.asarray(np.interp(positions, np.arange(len(samples)), samples), dtype=np.float32)


def _tilt(samples: Samples, rng: np.random.Generator) -> Samples:
    delayed = np.concatenate([np.zeros(1, np.float32), samples[:-1]])
    return np.asarray(samples + np.float32(rng.uniform(-0.5, 0.5)) * delayed, dtype=np.float32)


def _telephone(samples: Samples) -> Samples:
    return resample(np.asarray(soxr.resample(samples, RATE, 8_000), dtype=np.float32), 8_000)


def _reverberate(samples: Samples, rng: np.random.Generator) -> Samples:
    length = int(rng.uniform(0.05, 0.35) * RATE)
    response = rng.standard_normal(length) * np.exp(-6.9 * np.arange(length) / length) * rng.uniform(0.02, 0.12)
    response[0] = 1.0
    return np.asarray(fftconvolve(samples, response)[: len(samples)], dtype=np.float32)


def _noise(length: int, rng: np.random.Generator) -> Samples:
    spectrum = np.fft.rfft(rng.standard_normal(length))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1.0) ** -rng.uniform(0, 1)
    noise = np.fft.irfft(spectrum, length)
    return np.asarray(noise / (np.std(noise) + 1e-9), dtype=np.float32)
