"""Text files: every line is a row with the one column `text`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from dray.jobs.inputs.formats.streams import bounded, open_stream

if TYPE_CHECKING:
    import fsspec

    from dray.jobs.inputs.formats.file import InputFile

SCHEMA = pa.schema([("text", pa.string())])
BLOCK_BYTES = 1 << 20  # read at a time
LONGEST = 64 << 20  # bytes of a line


def inspect(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with its number of lines. Raises ValueError if a line is not UTF-8 or longer than LONGEST."""
    rows = sum(text.count("\n") + 1 for text in _texts(fs, source.path))
    return replace(source, rows=rows, schema=SCHEMA)


def batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """The lines, without their line ends (LF or CR LF)."""
    for text in _texts(fs, source.path):
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        batch = pa.record_batch([pa.array(lines, pa.string())], SCHEMA)
        yield from bounded([batch.select(columns)], len(text) / len(lines))


def _texts(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[str]:
    """The file in pieces of whole lines, each without its last line end."""
    lines, rest = 0, b""
    with open_stream(fs, path) as stream:
        while block := stream.read(BLOCK_BYTES):
            whole, end, rest = (rest + block).rpartition(b"\n")
            if end:
                yield _decoded(whole, lines)
                lines += whole.count(b"\n") + 1
            if len(rest) > LONGEST:
                raise ValueError(f"line {lines + 1} is longer than {LONGEST} bytes")
    if rest:
        yield _decoded(rest, lines)


def _decoded(content: bytes, before: int) -> str:
    """The text of `content`, which comes after `before` lines; without a byte order mark at the start of the file."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = before + content[: error.start].count(b"\n") + 1
        raise ValueError(f"line {line} is not UTF-8; convert the file to UTF-8") from None
    return text if before else text.removeprefix("\ufeff")
