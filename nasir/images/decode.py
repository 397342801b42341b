"""One image, in a file or in memory, as pixels of one size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from nasir.errors import DataError

Pixels = np.ndarray[Any, Any]


class Encoded(NamedTuple):
    """What an image file holds, and what messages call it."""

    name: str
    data: bytes


ImageSource = str | Encoded  # str: the path of an image file


@dataclass(frozen=True, slots=True)
class View:
    """How a whole image becomes pixels of one size: (height, width), channels (3: colour, 1: grey).

    `shorter`: side that the shorter one is resized to before the middle is cut out; None: height and width are
    each resized to `size`, or, where `fixed`, must already be so.
    """

    size: tuple[int, int]
    channels: int = 3
    shorter: int | None = None
    fixed: bool = False


def decode(source: ImageSource, view: View) -> Pixels:
    """One image as uint8 [H, W, C]; DataError names the file."""
    return pixels(fitted(load(source, view.channels), view, name_of(source)))


def decode_into(images: Pixels, sources: Sequence[ImageSource], view: View) -> None:
    """Set `images`, uint8 [n, C, H, W], to those of the n `sources`; DataError names the first that is damaged."""
    for place, source in enumerate(sources):
        images[place] = decode(source, view).transpose(2, 0, 1)


def name_of(source: ImageSource) -> str:
    return source.name if isinstance(source, Encoded) else source


@contextmanager
def opened(source: ImageSource) -> Iterator[Image.Image]:
    """An image of which so far only the header is read; whatever Pillow finds wrong becomes a DataError."""
    try:
        with Image.open(BytesIO(source.data) if isinstance(source, Encoded) else source) as image:
            yield image
    # damaged files of several formats end in the last two
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise DataError(f"{name_of(source)} is not a readable image ({error}); remove or replace it") from error


def load(source: ImageSource, channels: int) -> Image.Image:
    """The whole image, in colour (3 channels) or grey (1)."""
    with opened(source) as image:
        return image.convert("RGB" if channels == 3 else "L")


def fitted(image: Image.Image, view: View, name: str) -> Image.Image:
    """`image` at the size of `view`; the file's name is for the error message."""
    height, width = view.size
    if view.shorter is not None:
        # sizes and offsets as in torchvision's resize and center_crop
        least = min(image.size)
        wide, high = (side * view.shorter // least for side in image.size)
        left, top = round((wide - width) / 2), round((high - height) / 2)
        return _resized(image, wide, high).crop((left, top, left + width, top + height))
    if view.fixed and image.size != (width, height):
        raise DataError(
            f"{name} is {image.width}x{image.height}, the first image is {width}x{height}; "
            "give `size:` to resize all of them"
        )
    return _resized(image, width, height)


def resized_part(image: Image.Image, box: tuple[int, int, int, int], size: tuple[int, int]) -> Image.Image:
    """The part (top, left, height, width) of `image`, resized to (height, width)."""
    top, left, height, width = box
    return _resized(image.crop((left, top, left + width, top + height)), size[1], size[0])


def pixels(image: Image.Image) -> Pixels:
    """uint8 [H, W, C]."""
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
