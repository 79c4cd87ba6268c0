"""Makes pipeline arguments of the values of cells: text, chats, tables, recordings, images, videos."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from dray.pipelines.media.opening import MediaOptions, opened

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

    from dray.pipelines.media.chunking import Samples

MEDIA_KEYS = {"image": ("image", "url", "path", "base64"), "audio": ("audio", "url", "path", "base64")}  # of a chat's part

MAX_TABLE_CELLS = 10_000  # for more, the tokenizer of tables takes seconds and much memory
MAX_TABLE_CHARACTERS = 1_000_000

COUNTS = {"max_new_tokens", "min_new_tokens", "max_length", "min_length", "top_k", "num_beams", "num_return_sequences"}


def as_it_is(cell: object, options: MediaOptions) -> object:
    """The value of the cell, unchanged."""
    return cell


def recording(cell: object, options: MediaOptions) -> object:
    """The value of the cell, unchanged: speech recognition decodes it as a stream."""
    return cell


def samples(cell: object, options: MediaOptions) -> Samples:
    """A whole recording: mono float32 (samples,) at `options.rate` Hz. Raises as `audio.whole` does."""
    from dray.pipelines.media import audio

    return audio.whole(cell, options)


def image(cell: object, options: MediaOptions) -> Image.Image:
    """A picture. Raises as `pictures.image` does."""
    from dray.pipelines.media import pictures

    return pictures.image(cell, options)


def images(cell: object, options: MediaOptions) -> object:
    """A picture, or a list of them."""
    several = isinstance(cell, list) and not (cell and isinstance(cell[0], (list, int)))
    return [image(inner, options) for inner in cast("list[object]", cell)] if several else image(cell, options)


class _TemporaryPath(str):
    """The path of a file that is deleted with this string."""


def video(cell: object, options: MediaOptions) -> str:
    """The path of a video, which is what pipelines take; a temporary file if the cell names no local file."""
    path = cell.get("path") if isinstance(cell, Mapping) and cell.get("bytes") is None else cell
    if isinstance(path, str) and os.path.isfile(path):
        return path
    descriptor, name = tempfile.mkstemp(prefix="dray-video-")
    temporary = _TemporaryPath(name)
    weakref.finalize(temporary, os.unlink, name)
    with opened(cell, options) as file, open(descriptor, "wb") as copy:
        shutil.copyfileobj(file, copy)
    return temporary


def chat(cell: object, options: MediaOptions) -> object:
    """A text, or a conversation with decoded media: a list of messages with `role` and `content`."""
    if not isinstance(cell, list):
        return cell
    return [_message(message, options) for message in cell]


def _message(message: object, options: MediaOptions) -> object:
    if not isinstance(message, Mapping):
        return message
    kept = {key: without_nulls(value) for key, value in message.items() if value is not None or key in ("role", "content")}
    content = kept.get("content")
    return {**kept, "content": [_part(part, options) for part in content]} if isinstance(content, list) else kept


def _part(part: object, options: MediaOptions) -> object:
    kind = part.get("type") if isinstance(part, Mapping) else None
    for key in MEDIA_KEYS.get(str(kind), ()):
        if key in cast("Mapping[str, object]", part):
            decoded = (image if kind == "image" else samples)(cast("Mapping[str, object]", part)[key], options)
            return {"type": kind, kind: decoded}
    return part


def table(cell: object, options: MediaOptions) -> pd.DataFrame:
    """A table of strings, from columns (name -> values), records, or JSON of either. Raises ValueError."""
    import pandas as pd

    value = parsed(cell, options)
    if not isinstance(value, (Mapping, list)):
        raise ValueError(f"expected a table as columns, records or JSON, got {type(cell).__name__}")
    _refuse_sparse(value)
    made: pd.DataFrame = pd.DataFrame(value, dtype=object).map(lambda entry: "" if entry is None else str(entry))
    characters = sum(len(entry) for column in made.columns for entry in [str(column), *made[column]])
    if characters > MAX_TABLE_CHARACTERS:
        raise ValueError(f"the table has {characters} characters, more than {MAX_TABLE_CHARACTERS}")
    return made


def _refuse_sparse(table: Mapping[str, object] | list[object]) -> None:
    """Raises ValueError for too many cells. Even a few records give many cells if they share no keys."""
    lines = list(table.values()) if isinstance(table, Mapping) else table
    keys = set().union(*(line for line in lines if isinstance(line, Mapping)))
    longest = max((len(line) for line in lines if isinstance(line, list)), default=0)
    if len(lines) * max(len(keys), longest) > MAX_TABLE_CELLS:
        raise ValueError(f"the table has {len(lines)} x {max(len(keys), longest)} cells, more than {MAX_TABLE_CELLS} in all")


def word_boxes(cell: object, options: MediaOptions) -> list[tuple[str, list[int]]]:
    """(word, box) pairs of a document, boxes in 0 to 1000; from pairs, or structs of `word` and `box`."""
    pairs = cast("Sequence[Any]", parsed(cell, options))
    return [(pair["word"], pair["box"]) if isinstance(pair, Mapping) else (pair[0], pair[1]) for pair in pairs]


def parsed(cell: object, options: MediaOptions) -> object:
    """The value of the cell; parsed as JSON if it is a string."""
    return json.loads(cell) if isinstance(cell, str) else without_nulls(cell)


def whole_numbers(options: Mapping[str, Any]) -> dict[str, Any]:
    """Call arguments with the names in COUNTS as ints: a column with nulls may hold them as floats."""
    counts = {name: int(value) for name, value in options.items() if name in COUNTS and _is_whole(value)}
    nested = options.get("generate_kwargs")
    inner = {"generate_kwargs": whole_numbers(nested)} if isinstance(nested, Mapping) else {}
    return {**options, **counts, **inner}


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def tensor(value: object) -> object:
    """A list of floats as a tensor of shape (1, numbers), nested lists with their own shape; other values unchanged."""
    import torch

    innermost = value
    while isinstance(innermost, list) and innermost:
        innermost = innermost[0]
    if innermost is value or not isinstance(innermost, float):
        return value
    made = torch.tensor(value)
    return made[None] if made.ndim == 1 else made


def without_nulls(value: object) -> object:
    """The value without null fields in its structs: Arrow gives every row the fields that any row has."""
    if isinstance(value, Mapping):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value
