"""One input file, as it is listed, inspected and read."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import pyarrow as pa

from dray.jobs.columns import WHOLE_FILE
from dray.jobs.keys import first_key


@dataclass(frozen=True)
class InputFile:
    """One input file.

    Attributes:
        name: how the user would write it; it names the file in keys, ids and the `source` column.
        path: how its filesystem names it.
        format: its name in FORMATS.
        rows: in the file; 1 of a damaged one.
        size: bytes of the file.
        version: of its content, as its storage tells: an etag, or when it was changed; empty where it does not.
        damaged: why it cannot be read, where that is so. It is then one row, which fails.
        row_groups: rows of each, for Parquet.
        schema: its columns.
        is_media: whether the file as a whole is one row, which the model side opens.
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
        """Bytes that reading it takes."""
        return len(self.path) if self.is_row else self.size

    @property
    def is_row(self) -> bool:
        """Whether the file as a whole is one row."""
        return self.is_media or self.damaged is not None

    @property
    def first(self) -> int:
        """The position of its first row: 0, or of a damaged file WHOLE_FILE."""
        return 0 if self.damaged is None else WHOLE_FILE

    @cached_property
    def first_key(self) -> int:
        """The key of position 0."""
        return first_key(self.name)

    @property
    def keys(self) -> tuple[int, int]:
        """The key of its first row, and the one after its last row's."""
        return self.first_key + self.first, self.first_key + self.first + self.rows

    def ids(self, first: int, count: int) -> list[str]:
        """Names of the rows [first, first + count) for people."""
        if self.is_row:
            return [self.name]
        return [f"{self.name}:{position}" for position in range(first, first + count)]
