"""Jobs as users write them, and what they have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import soundfile as sf

from support import builders


def rows_of(output: Path, status: str = "ok") -> list[dict]:
    return pads.dataset(output / "data" / f"status={status}").to_table().to_pylist()


def write_texts(folder: Path, texts: list[str], shards: int) -> None:
    folder.mkdir()
    for shard, part in enumerate(np.array_split(np.array(texts, object), shards)):
        rows = pa.table({"text": part.tolist(), "n": [len(text) for text in part]})
        pq.write_table(rows, folder / f"{shard}.parquet", row_group_size=20)


def sound_bytes(samples: np.ndarray, rate: int = builders.RATE, kind: str = "flac") -> bytes:
    import io

    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


def text_job(models, folder: Path, **changes: object) -> dict:
    raw = {
        "task": "text-classification",
        "model": models.text_classifier,
        "input": {"path": str(folder / "in")},
        "output": {"path": str(folder / "out"), "keep": ["n"]},
    }
    return {**raw, **changes}
