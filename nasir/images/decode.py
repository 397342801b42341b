"""One image, in a file or in memory, as pixels of one size.

Whatever way an image is stored in, it becomes 8 bits a channel as a viewer would show it: 16-bit grey is scaled by its
range, transparent places are white, and the orientation that EXIF asks for is carried out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

# the formats that are read: loaded here, as `Image.open(formats=...)` would else load those of all others too
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,
)

from nasir.errors import DataError, NasirError

Pixels = np.ndarray[Any, Any]

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "WEBP", "TIFF", "GIF")
"""Nothing else is opened, whatever a file is called: some formats make Pillow start other programs."""
MOST_PIXELS = 64_000_000
"""Of an image, by default."""
BYTES = 12  # of a pixel that decoding an image takes, at most, with all copies that are made of it
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION, _PHOTOMETRIC, _BITS = 0x112, 262, 258  # tags of EXIF and TIFF
_ROWS = 2**22  # values that are scaled at a time


class Encoded(NamedTuple):
    """What an image file holds, and what messages call it."""

    name: str
    data: bytes


ImageSource = str | Encoded  # str: the path of an image file


class DamagedImage(DataError):
    """A file that no image can be decoded from, now or later."""


@dataclass(frozen=True, slots=True)
class View:
    """How a whole image becomes pixels of one size: (height, width), channels (3: colour, 1: grey).

    `shorter`: side that the shorter one is resized to before the middle is cut out; None: height and width are
    each resized to `size`, or, where `fixed`, must already be so. `most_pixels`: an image with more is refused before
    it is decoded.
    """

    size: tuple[int, int]
    channels: int = 3
    shorter: int | None = None
    fixed: bool = False
    most_pixels: int = field(default=MOST_PIXELS, repr=False, compare=False)  # no pixel depends on it


class Fault(NamedTuple):
    """An image that cannot be used: its place among others, what is wrong, whether the file itself is damaged."""

    place: int
    text: str
    damaged: bool


def decode(source: ImageSource, view: View) -> Pixels:
    """One image as uint8 [H, W, C]; DataError names the file."""
    return _decode(source, view)[0]


def _decode(source: ImageSource, view: View) -> tuple[Pixels, tuple[int, int]]:
    """One image as uint8 [H, W, C], and the (height, width) that it was stored in."""
    image = load(source, view)
    return pixels(fitted(image, view, name_of(source))), (image.height, image.width)


def decode_into(images: Pixels, sizes: Pixels, sources: Sequence[ImageSource], view: View) -> list[Fault]:
    """Set `images`, uint8 [n, C, H, W], to those of the n `sources`, and `sizes`, [n, 2], to the heights and widths
    that they are stored in; both are 0 for one that has a fault."""
    faults = []
    for place, source in enumerate(sources):
        try:
            values, sizes[place] = _decode(source, view)
            images[place] = values.transpose(2, 0, 1)
        except DataError as error:
            images[place] = sizes[place] = 0
            faults.append(Fault(place, str(error), isinstance(error, DamagedImage)))
    return faults


def name_of(source: ImageSource) -> str:
    return source.name if isinstance(source, Encoded) else source


@contextmanager
def opened(source: ImageSource, most_pixels: int = MOST_PIXELS) -> Iterator[Image.Image]:
    """An image of which so far only the header is read.

    Raises DamagedImage for whatever Pillow finds wrong, here or within, DataError for an image that is too large.
    """
    name = name_of(source)
    try:
        file = BytesIO(source.data) if isinstance(source, Encoded) else source
        with _own_limit, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > most_pixels:
                raise DataError(
                    f"{name} has {image.width}x{image.height} pixels, more than {most_pixels:,}, and would take about "
                    f"{BYTES * image.width * image.height / 2**30:.1f} GiB to decode; make it smaller, or raise "
                    "`max_pixels`"
                )
            yield image
    except (NasirError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage(
            f"{name} is not a readable image (it begins like none of {', '.join(FORMATS)}); remove or replace it"
        ) from error
    except Exception as error:  # damaged files make the decoders of the various formats raise anything
        told = "".join(char if char.isprintable() else "?" for char in str(error))[:200] or type(error).__name__
        raise DamagedImage(f"{name} is not a readable image ({told}); remove or replace it") from error


class _OwnLimit:
    """Within it Pillow's own bound on the size of images, which is one for the whole process, is lifted."""

    def __init__(self) -> None:
        self._lock, self._inside, self._before = Lock(), 0, Image.MAX_IMAGE_PIXELS

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._inside += 1

    def __exit__(self, *given: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                Image.MAX_IMAGE_PIXELS = self._before


_own_limit = _OwnLimit()


def stored_size(source: ImageSource, most_pixels: int = MOST_PIXELS) -> tuple[int, int]:
    """(height, width) of an image, as its header says; upright."""
    with opened(source, most_pixels) as image:
        turned = _orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def load(source: ImageSource, view: View) -> Image.Image:
    """The whole image, upright, in colour or grey as `view` says."""
    with opened(source, view.most_pixels) as image:
        turn = _TURNS.get(_orientation(image))
        image.load()
        plain = _eight_bits(image, "RGB" if view.channels == 3 else "L", name_of(source))
        return plain if turn is None else plain.transpose(turn)


def _orientation(image: Image.Image) -> int:
    """How EXIF says that the image is to be turned, 1..8; Pillow itself turns TIFF, which has it elsewhere."""
    if "exif" not in image.info:
        return 1
    try:
        value = image.getexif().get(_ORIENTATION)
    except Exception:  # pixels are of use without what is written about them
        return 1
    return value if isinstance(value, int) else 1


def _eight_bits(image: Image.Image, mode: str, name: str) -> Image.Image:
    """The image in `mode`, RGB or L, transparent places white."""
    if image.mode == "F":
        raise DataError(
            f"{name} has floating-point pixels, whose range nothing says; save it with 8 or 16 bits a channel"
        )
    if image.mode.startswith("I"):
        return Image.fromarray(_scaled(image, name)).convert(mode)
    if not image.has_transparency_data:
        return image.convert(mode)
    seen = image if image.mode in ("RGBA", "LA") else image.convert("RGBA")
    plain, alpha = seen.convert(mode), seen.getchannel("A")
    if alpha.getextrema() != (255, 255):
        plain.paste(255 if mode == "L" else (255, 255, 255), mask=ImageChops.invert(alpha))
    return plain


def _scaled(image: Image.Image, name: str) -> Pixels:
    """Whole numbers of more than 8 bits as uint8: the greatest that their range has is white."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS, (16,))[0]
    top = 2**bits - 1 if 8 < bits < 16 else 65535
    if values.min() < 0 or values.max() > top:
        raise DataError(
            f"{name} has pixels of {values.min()}..{values.max()}, beyond the 16 bits of 0..65535; save it with 8 or "
            "16 bits, unsigned"
        )
    scaled = np.empty(values.shape, np.uint8)
    step = max(_ROWS // values.shape[1], 1)
    for row in range(0, len(values), step):
        scaled[row : row + step] = (values[row : row + step].astype(np.uint32) * 255 + top // 2) // top
    # Pillow inverts other grey TIFF where 0 is white, but not this
    return 255 - scaled if tags.get(_PHOTOMETRIC) == 0 else scaled


def fitted(image: Image.Image, view: View, name: str) -> Image.Image:
    """`image` at the size of `view`; the file's name is for the error message."""
    height, width = view.size
    if view.shorter is not None:
        # sizes and offsets as in torchvision's resize and center_crop
        least = min(image.size)
        wide, high = (side * view.shorter // least for side in image.size)
        if wide * high > max(view.most_pixels, image.width * image.height):
            raise DataError(
                f"{name} is {image.width}x{image.height}, with a shorter side of {view.shorter} it would be "
                f"{wide}x{high}; remove it, or cut it by hand"
            )
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
    with _own_limit:
        part = image.crop((left, top, left + width, top + height))
    return _resized(part, size[1], size[0])


def pixels(image: Image.Image) -> Pixels:
    """uint8 [H, W, C]."""
    values = np.asarray(image)
    return values if values.ndim == 3 else values[..., None]


def _resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BILINEAR)
