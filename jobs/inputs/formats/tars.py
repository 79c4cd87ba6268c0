"""WebDataset tars: consecutive members with the same name before the first dot are one row, with a column per extension."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from dray.jobs.inputs.formats.media_files import AUDIO, IMAGES, VIDEO
from dray.jobs.inputs.formats.streams import READ_BYTES, READ_ROWS, compression, open_stream

if TYPE_CHECKING:
    import fsspec

    from dray.jobs.inputs.formats.file import InputFile

KEY = "__key__"
NAME = re.compile(r"(?!__[^/]*__(?:/|$))((?:.*/)?[^./]+)\.([^/]+)", re.DOTALL)  # key, extension; not __meta__
TEXT = frozenset(["txt", "text"])
STRINGS = TEXT | frozenset(["json", "jsonl", "cls", "csv", "tsv"])
KINDS = {"audio": AUDIO, "image": IMAGES, "text": TEXT, "video": VIDEO}


def columns_of_kind(argument: str, columns: Sequence[str]) -> list[str]:
    """The columns that may be an argument such as `image` or `images`; `jpg` rather than `mask.jpg`."""
    kind = KINDS.get(argument.removesuffix("s"), frozenset())
    fitting = [column for column in columns if _last(column) in kind]
    return [column for column in fitting if "." not in column] or fitting


def inspect(fs: fsspec.AbstractFileSystem, source: InputFile) -> InputFile:
    """The file with rows and schema, from the members' headers: a column for each extension.

    Raises:
        ValueError: a sample holds a member twice.
        tarfile.TarError: the file is not a tar, or is cut off.
    """
    rows, columns = 0, {KEY: pa.string()}
    for _, sample in _samples(fs, source.path, ()):
        rows += 1
        # A batch of media may have more than 2 GB.
        columns |= {name: pa.string() if _last(name) in STRINGS else pa.large_binary() for name in sample}
    return replace(source, rows=rows, schema=pa.schema(columns))


def batches(
    fs: fsspec.AbstractFileSystem, source: InputFile, row_groups: tuple[int, ...] | None, columns: list[str]
) -> Iterator[pa.RecordBatch]:
    """All samples as rows; null where a sample lacks a column or its text is not UTF-8."""
    schema = pa.schema([source.schema.field(column) for column in columns])
    held: list[dict[str, object]] = []
    size = 0
    for key, sample in _samples(fs, source.path, columns):
        held.append({KEY: key, **{name: _value(name, content) for name, content in sample.items()}})
        size += sum(map(len, sample.values()))
        if size >= READ_BYTES or len(held) == READ_ROWS:
            yield pa.RecordBatch.from_pylist(held, schema)
            held, size = [], 0
    if held:
        yield pa.RecordBatch.from_pylist(held, schema)


def _samples(fs: fsspec.AbstractFileSystem, path: str, wanted: Container[str]) -> Iterator[tuple[str, Mapping[str, bytes]]]:
    """(key, extension -> content) of each sample; the content is empty for extensions that are not in `wanted`."""
    key, sample = "", dict[str, bytes]()
    with ExitStack() as opened:
        archive = opened.enter_context(_open(fs, path, opened))
        while (member := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # or tarfile would keep every member
            name = NAME.fullmatch(member.name)
            if name is None or not member.isreg():
                continue
            if name[1] != key and sample:
                yield key, sample
                sample = {}
            key, extension = name[1], name[2].lower()
            if extension in sample:
                raise ValueError(f"it holds {member.name} twice")
            content = archive.extractfile(member) if extension in wanted else None
            sample[extension] = content.read() if content else b""
    if sample:
        yield key, sample


def _open(fs: fsspec.AbstractFileSystem, path: str, opened: ExitStack) -> tarfile.TarFile:
    """Opens a tar. A compressed one is read as a stream; in others unwanted content is skipped."""
    if compression(path):
        return tarfile.open(fileobj=opened.enter_context(open_stream(fs, path)), mode="r|")
    return tarfile.open(fileobj=opened.enter_context(fs.open(path, "rb")), mode="r:")


def _value(name: str, content: bytes) -> bytes | str | None:
    if _last(name) not in STRINGS:
        return content
    try:
        return content.decode()
    except UnicodeDecodeError:
        return None


def _last(extension: str) -> str:
    return extension.rpartition(".")[2]
