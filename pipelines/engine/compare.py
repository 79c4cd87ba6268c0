"""Compares two predictions of one row: the stored one, and that of a new run of the row alone."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from dray.pipelines.engine.block import predict
from dray.pipelines.engine.watchdog import Watchdog
from dray.pipelines.tasks.arrow import to_arrow

if TYPE_CHECKING:
    import pyarrow as pa

    from dray.pipelines.phases.item import Item
    from dray.pipelines.phases.phases import Phases

TOLERANCE = 1e-4  # of results in float32
HALF_TOLERANCE = 0.05  # and in half precision
STEP = 1 / 255  # of a picture's brightness: the change that rounding may make
FLIPPED = 1e-3  # share of a picture's values that may differ: rounding decides about pixels at the edge of a mask
PNG, FLAC = b"\x89PNG", b"fLaC"
SHOWN = 60  # characters of a value in a message


@dataclass
class Difference:
    """The difference between two predictions.

    Attributes:
        largest: the largest absolute difference of two numbers.
        places: one phrase for each number that differs by more than the tolerance, and for each other difference.
    """

    largest: float = 0.0
    places: list[str] = field(default_factory=list)


def device() -> str:
    """The device of the weights if `engine.device` is auto."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tolerance_of(phases: Phases) -> float:
    """The tolerance for numbers from different batches, for the precision of the weights."""
    import torch

    return HALF_TOLERANCE if phases.pipe.dtype in (torch.float16, torch.bfloat16) else TOLERANCE


def alone(phases: Phases, item: Item, schema: pa.DataType, timeout_s: float) -> object:
    """The prediction of one item, run alone, as the Python value of Arrow type `schema`. Raises RowError."""
    (outcome,) = predict(phases, [item], phases.limits(1), Watchdog(timeout_s))
    if outcome.error is not None:
        raise outcome.error
    return to_arrow([outcome.prediction], schema).to_pylist()[0]


def compare(stored: object, again: object, tolerance: float) -> Difference:
    """The difference. Numbers may differ by `tolerance`, above 1 by this share of them; media are decoded and compared."""
    difference = Difference()
    for place, phrase, apart, allowed in _differences(stored, again, ""):
        difference.largest = max(difference.largest, apart)
        if not apart <= tolerance * allowed:
            difference.places.append(f"{place}: {phrase}" if place else phrase)
    return difference


_Found = tuple[str, str, float, float]  # place, phrase, how far apart, how many times the tolerance is allowed


def _differences(stored: object, again: object, place: str) -> Iterator[_Found]:
    if isinstance(stored, dict) and isinstance(again, dict) and stored.keys() == again.keys():
        for key in stored:
            yield from _differences(stored[key], again[key], f"{place}.{key}".lstrip("."))
    elif _are_numbers(stored, again):
        yield from _number_lists(stored, again, place)  # type: ignore[arg-type]
    elif isinstance(stored, list) and isinstance(again, list) and len(stored) == len(again):
        for index, (one, other) in enumerate(zip(stored, again, strict=True)):
            yield from _differences(one, other, f"{place}[{index}]")
    elif isinstance(stored, list) and isinstance(again, list):
        yield _other(place, f"{len(stored)} values are stored, and now there are {len(again)}")
    elif _is_number(stored) and _is_number(again) and (isinstance(stored, float) or isinstance(again, float)):
        yield from _numbers(float(stored), float(again), place)  # type: ignore[arg-type]
    elif stored != again:
        media = _media(stored), _media(again)
        if all(each is not None for each in media):
            yield from _media_differences(*media, place)  # type: ignore[arg-type]
        else:
            yield _other(place, _both(stored, again))


def _other(place: str, phrase: str) -> _Found:
    """A difference that no tolerance admits."""
    return place, phrase, 0.0, -math.inf


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _numbers(stored: float, again: float, place: str) -> Iterator[_Found]:
    if stored == again or (math.isnan(stored) and math.isnan(again)):
        return
    if not (math.isfinite(stored) and math.isfinite(again)):
        yield _other(place, _both(stored, again))
    else:
        yield place, _both(stored, again), abs(stored - again), max(1.0, abs(stored))


def _are_numbers(stored: object, again: object) -> bool:
    """Whether these are two lists of floats of equal length."""
    both = isinstance(stored, list) and isinstance(again, list) and 0 < len(stored) == len(again)
    return both and all(type(value) is float for values in (stored, again) for value in values)  # type: ignore[attr-defined]


def _number_lists(stored: list[float], again: list[float], place: str) -> Iterator[_Found]:
    """The largest absolute difference, and the one that exceeds the tolerance most."""
    one, other = np.array(stored), np.array(again)
    with np.errstate(invalid="ignore"):
        apart = np.where((one == other) | (np.isnan(one) & np.isnan(other)), 0.0, np.abs(one - other))
        relative = apart / np.maximum(1.0, np.abs(one))
    for index in {int(np.argmax(np.nan_to_num(each, nan=np.inf))) for each in (relative, apart)}:
        yield from _numbers(stored[index], again[index], f"{place}[{index}]")


def _both(stored: object, again: object) -> str:
    shown = [text if len(text) <= SHOWN else f"{text[:SHOWN]}..." for text in (repr(stored), repr(again))]
    return f"{shown[0]} is stored, and now it is {shown[1]}"


@dataclass(frozen=True)
class _Media:
    """A decoded picture, values in 0 to 1, or sound, values in -1 to 1."""

    values: np.ndarray
    is_picture: bool


def _media(value: object) -> _Media | None:
    """The picture or sound in bytes or base64; None if there is none."""
    if isinstance(value, str):
        try:
            value = base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            return None
    try:
        if isinstance(value, bytes) and value.startswith(PNG):
            return _Media(_picture(value), True)
        if isinstance(value, bytes) and value.startswith(FLAC):
            import soundfile

            return _Media(soundfile.read(io.BytesIO(value), always_2d=True)[0], False)
    except Exception:  # decoders raise different errors for damaged bytes
        return None
    return None


def _picture(png: bytes) -> np.ndarray:
    from PIL import Image

    picture = Image.open(io.BytesIO(png))
    depth = 65535 if picture.mode.startswith("I") else 1 if picture.mode == "1" else 255
    return np.asarray(picture).astype(np.float64) / depth


def _media_differences(stored: _Media, again: _Media, place: str) -> Iterator[_Found]:
    if stored.values.shape != again.values.shape or stored.is_picture != again.is_picture:
        yield _other(place, f"a shape of {stored.values.shape} is stored, and now it is {again.values.shape}")
        return
    apart = np.abs(stored.values - again.values)
    if stored.is_picture:
        share = float((apart > 1.01 * STEP).mean())
        if share > FLIPPED:
            yield _other(place, f"{share:.1%} of the picture's values differ")
    elif apart.size:
        yield place, "the sound differs", float(apart.max()), 1.0
