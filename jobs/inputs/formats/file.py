"""One input file."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from dray.jobs.columns import WHOLE_FILE
from dray.jobs.keys import first_key


@dataclass(frozen=True)
class InputFile:
    """One input file; listing it gives name, path, format, size and version, inspecting it the rest.

    Attributes:
        name: the name as the user would write it; it names the file in keys, ids and the `source` column.
        path: the path as its filesystem names it.
        format: the name of its format in FORMATS.
        rows: the number of rows; 1 if the file is damaged.
        size: bytes of the file.
        version: version of its content from its storage: an etag, or the time of the last change; empty if unknown.
        damaged: why it cannot be read; None if it can. A damaged file is one row, which fails.
        row_groups: rows of each row group, for Parquet.
        schema: its columns.
        is_media: whether the whole file is one row, which the pipeline opens.
    """

    name: str
    path: str
    format: str
    rows: int = 0
    size: int = 0
    version: str = ""
    damaged: str | None = None
    row_groups: tuple[int, ...] = ()
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))
    is_media: bool = False

    @property
    def read_size(self) -> int:
        """Bytes that a read task reads."""
        return len(self.path) if self.is_row else self.size

    @property
    def is_row(self) -> bool:
        """Whether the whole file is one row."""
        return self.is_media or self.damaged is not None

    @property
    def first(self) -> int:
        """The position of its first row: 0, or WHOLE_FILE if it is damaged."""
        return 0 if self.damaged is None else WHOLE_FILE

    @cached_property
    def first_key(self) -> int:
        """The key of position 0."""
        return first_key(self.name)

    @property
    def keys(self) -> tuple[int, int]:
        """The key of its first row, and the key after that of its last row."""
        return self.first_key + self.first, self.first_key + self.first + self.rows

    def ids(self, first: int, count: int) -> list[str]:
        """The ids of the rows [first, first + count), which people can read."""
        if self.is_row:
            return [self.name]
        return [f"{self.name}:{position}" for position in range(first, first + count)]
