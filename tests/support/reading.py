"""Inputs as the tests write them, and their rows as read tasks give them."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from dray.jobs.batch.datasource import pieces, tables
from dray.jobs.columns import ARGUMENT
from dray.jobs.inputs.dataset import Input, open_input
from dray.jobs.keys import KeySet
from dray.pipelines.config import parse_config
from support.loading import task_of

NONE = KeySet()
TEXT, SPEECH, IMAGE = "text-classification", "automatic-speech-recognition", "image-classification"
CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


def opened(path: object, task: str = TEXT, keep: tuple[str, ...] = (), **given: object) -> Input:
    where = [str(one) for one in path] if isinstance(path, list) else str(path)
    raw = {"model": "m", "input": {"path": where, **given}, "output": {"path": "out", "keep": list(keep)}}
    config = parse_config({"task": task, **raw})
    return open_input(config, task_of(config))


def rows(data: Input, tasks: int = 1, finished: KeySet = NONE) -> list[dict]:
    """What the read tasks yield, one after the other."""
    groups = np.array_split(np.array(pieces(data, finished), object), tasks)
    read = (table for group in groups for table in tables(data.filesystem, group, data.columns, finished))
    return [row for table in read for row in table.to_pylist()]


def cells(data: Input, argument: str = "text") -> list[object]:
    return [row[ARGUMENT + argument] for row in rows(data)]


def packed(path: Path, content: bytes) -> Path:
    """Writes a file, compressed as its suffix says."""
    codec = CODECS.get(path.suffix)
    with pa.CompressedOutputStream(str(path), codec) if codec else path.open("wb") as file:
        file.write(content)
    return path


def tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"not looked at")
