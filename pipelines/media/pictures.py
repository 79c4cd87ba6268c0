"""Pictures, decoded within limits."""

from __future__ import annotations

import io
from typing import IO, TYPE_CHECKING

import numpy as np

from dray.pipelines.errors import LimitError, first_line
from dray.pipelines.media.opening import MediaOptions, opened

if TYPE_CHECKING:
    from PIL import Image

BYTES_PER_PIXEL = 4  # of Pillow's RGB in memory
MAX_ASPECT = 1000  # longer side / shorter side; an image processor that fixes the shorter side would need too much memory


def image(cell: object, options: MediaOptions) -> Image.Image:
    """A picture from encoded bytes, a path or URL, base64, or an array (height, width[, channels]) of bytes.

    Raises:
        ValueError: the cell holds no image that Pillow can read, or one that is larger than `options.max_bytes`.
        LimitError: the image has more than `options.max_pixels` pixels.
        OSError: there is no such file.
        RowError: its URL cannot be fetched.
    """
    from PIL import Image, UnidentifiedImageError

    if isinstance(cell, Image.Image):
        return cell
    if isinstance(cell, (list, np.ndarray)):
        picture = Image.fromarray(_pixels(cell))
        if too_large := _too_large(picture, options):
            raise ValueError(too_large)
        return picture
    with opened(cell, options) as file:
        _refuse_long(file, options)
        content = io.BytesIO(file.read())  # Pillow needs methods that Arrow's buffers lack
    try:
        picture = Image.open(content)
        too_large, pixels = _too_large(picture, options), picture.width * picture.height
        if not (too_large or pixels > options.max_pixels):
            picture.load()
    except UnidentifiedImageError:
        raise ValueError("not an image that Pillow can read") from None
    except Exception as error:  # decoders raise different errors for damaged files
        raise ValueError(f"the image is damaged or too large: {first_line(error)}") from None
    if too_large:
        raise ValueError(too_large)
    if pixels > options.max_pixels:
        raise LimitError(f"the image has {picture.width} x {picture.height} pixels, more than {options.max_pixels:,} in all")
    return picture


def _refuse_long(file: IO[bytes], options: MediaOptions) -> None:
    """Raises ValueError for a file that is larger than `options.max_bytes`."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > options.max_bytes:
        raise ValueError(f"the file has {size} bytes, more than input.max_media_bytes = {options.max_bytes}")


def _too_large(picture: Image.Image, options: MediaOptions) -> str | None:
    """Why an image of the size in its header would take too much memory; None if it would not."""
    tags = getattr(picture, "tag_v2", {})
    # A TIFF's tiles are decoded whole, and may be larger than the picture.
    width, height = (max(size, tags.get(tag, 0)) for size, tag in zip(picture.size, (322, 323), strict=True))
    if width * height * BYTES_PER_PIXEL > options.max_bytes:
        return (
            f"the image is too large: {width} x {height} pixels, decoded more than input.max_media_bytes = {options.max_bytes}"
        )
    if max(picture.size) > MAX_ASPECT * max(1, min(picture.size)):
        return f"the image is too narrow: {picture.width} x {picture.height} pixels, one side over {MAX_ASPECT} times the other"
    return None


def _pixels(cell: object) -> np.ndarray:
    try:
        values = np.asarray(cell)
    except ValueError:  # rows of different lengths
        values = np.empty(0)
    is_bytes = values.dtype.kind in "iu" and values.size and 0 <= values.min() <= values.max() <= 255
    if not is_bytes or values.ndim not in (2, 3) or values.shape[2:] not in ((), (1,), (2,), (3,), (4,)):
        raise ValueError(
            "an image given as an array must hold whole numbers from 0 to 255, in shape (height, width) or "
            f"(height, width, channels); got {values.dtype} in shape {values.shape}"
        )
    return (values[..., 0] if values.shape[2:] == (1,) else values).astype(np.uint8)
