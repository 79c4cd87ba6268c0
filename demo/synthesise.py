"""Makes the demo's input with espeak-ng: `python -m demo.synthesise demo/speech`. The result is in the repository."""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile as sf

from demo.training.corpus import HELD_OUT_TIMBRES, RATE, WORDS, Samples, distort_lightly, speak

SHORT, LONG, LONG_SECONDS = 48, 2, 330
SHARDS = 4
# anika is a robot's voice: the model gets four of its ten words wrong (see the model card).
TIMBRES = tuple(timbre for timbre in HELD_OUT_TIMBRES if timbre != "anika")
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-us-nyc")
FORMATS = (("FLAC", "flac"), ("OGG", "ogg"), ("MP3", "mp3"))

Row = dict[str, object]


def sentence(rng: np.random.Generator, voice: str, least: int, most: int) -> tuple[Samples, list[str]]:
    """A sentence of `least` to `most` digits: its samples at RATE and its words."""
    words = [WORDS[digit] for digit in rng.integers(0, 10, int(rng.integers(least, most + 1)))]
    return speak(" ".join(words), voice, int(rng.integers(120, 175)), int(rng.integers(35, 66))), words


def silence(seconds: float) -> Samples:
    """Silence at RATE."""
    return np.zeros(int(seconds * RATE), np.float32)


def short_row(rng: np.random.Generator, index: int) -> Row:
    """A row with one sentence by one voice."""
    voice = f"{ACCENTS[index % len(ACCENTS)]}+{TIMBRES[index % len(TIMBRES)]}"
    samples, words = sentence(rng, voice, 3, 8)
    padded = np.concatenate([silence(rng.uniform(0.1, 0.4)), samples, silence(rng.uniform(0.1, 0.4))])
    return row(f"short-{index:02}", distort_lightly(padded, rng), words, FORMATS[index % len(FORMATS)])


def long_row(rng: np.random.Generator, index: int) -> Row:
    """A row of LONG_SECONDS or more: sentences by random voices, with pauses."""
    pieces, words = [silence(0.5)], []
    while sum(map(len, pieces)) < LONG_SECONDS * RATE:
        voice = f"{ACCENTS[int(rng.integers(len(ACCENTS)))]}+{TIMBRES[int(rng.integers(len(TIMBRES)))]}"
        samples, spoken = sentence(rng, voice, 2, 9)
        pieces += [samples, silence(rng.uniform(0.3, 1.2))]
        words += spoken
    return row(f"long-{index}", distort_lightly(np.concatenate(pieces), rng), words, ("OGG", "ogg"))


def row(name: str, samples: Samples, words: list[str], kind: tuple[str, str]) -> Row:
    """A row in the layout of Audio in `datasets`."""
    buffer = io.BytesIO()
    level = {} if kind[0] == "FLAC" else {"compression_level": 0.8}
    with sf.SoundFile(buffer, "w", RATE, channels=1, format=kind[0], **level) as file:
        for start in range(0, len(samples), RATE):  # libsndfile's Vorbis encoder overflows its stack on minutes at once
            file.write(samples[start : start + RATE])
    audio = {"bytes": buffer.getvalue(), "path": f"{name}.{kind[1]}"}
    return {"id": name, "audio": audio, "text": " ".join(words), "seconds": round(len(samples) / RATE, 2)}


def schema() -> pa.Schema:
    """The schema, with the metadata that `datasets` needs to decode the audio."""
    features = {
        "id": {"dtype": "string", "_type": "Value"},
        "audio": {"sampling_rate": RATE, "_type": "Audio"},
        "text": {"dtype": "string", "_type": "Value"},
        "seconds": {"dtype": "float64", "_type": "Value"},
    }
    audio = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields = [("id", pa.string()), ("audio", audio), ("text", pa.string()), ("seconds", pa.float64())]
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def main() -> None:
    """Writes SHARDS Parquet files; the long recordings are in the middle ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    rows = [short_row(rng, index) for index in range(SHORT)]
    for index in range(LONG):
        rows.insert(SHORT // 3 * (index + 1), long_row(rng, index))
    for shard, indices in enumerate(np.array_split(np.arange(len(rows)), SHARDS)):
        table = pa.Table.from_pylist([rows[index] for index in indices], schema())
        pq.write_table(table, folder / f"digits-{shard:05}-of-{SHARDS:05}.parquet", compression="none")


if __name__ == "__main__":
    main()
