"""Images stored in odd ways: each becomes the 8 bits a channel that a viewer would show, or is refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nasir.errors import DataError
from nasir.images import decode as decoding
from nasir.images.decode import DamagedImage, Encoded, View, decode, stored_size

RAMP = np.linspace(0, 65535, 30).round().astype(np.uint16).reshape(5, 6)
GREY = ((RAMP.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
PLAIN = View((5, 6), 1, fixed=True)


def encoded(image: Image.Image, kind: str, **options: Any) -> Encoded:
    held = io.BytesIO()
    image.save(held, kind, **options)
    return Encoded(f"a.{kind.lower()}", held.getvalue())


def read(source: Encoded, channels: int = 1) -> np.ndarray[Any, Any]:
    values = decode(source, View((5, 6), channels, fixed=True))
    return values[..., 0] if channels == 1 else values


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_is_scaled_by_its_range(kind: str, channels: int) -> None:
    values = read(encoded(Image.fromarray(RAMP), kind), channels)
    assert np.array_equal(values, GREY if channels == 1 else np.repeat(GREY[..., None], 3, 2))
    assert values.min() == 0 and values.max() == 255


def tiff(pixels: bytes, order: str, **tags: int) -> Encoded:
    """A grey TIFF of 5 rows of 6 with the given values of tags."""
    mark = "<" if order == "II" else ">"
    fields = {256: 6, 257: 5, 258: 16, 259: 1, 262: 1, 273: 8, 277: 1, 278: 5, 279: len(pixels)}
    fields |= {int(name[1:]): value for name, value in tags.items()}
    head = order.encode() + struct.pack(f"{mark}HI", 42, 8 + len(pixels))
    lines = b""
    for tag, value in sorted(fields.items()):
        kind, code = (4, "I") if tag in (273, 279) else (3, "H2x")
        lines += struct.pack(f"{mark}HHI{code}", tag, kind, 1, value)
    return Encoded("a.tif", head + pixels + struct.pack(f"{mark}H", len(fields)) + lines + struct.pack("4x"))


def test_tiff_of_either_byte_order_with_white_at_0_and_of_12_bits() -> None:
    assert np.array_equal(read(tiff(RAMP.astype("<u2").tobytes(), "II")), GREY)
    assert np.array_equal(read(tiff(RAMP.astype(">u2").tobytes(), "MM")), GREY)
    assert np.array_equal(read(tiff(RAMP.astype("<u2").tobytes(), "II", t262=0)), 255 - GREY)
    twelve = [value >> 4 for value in RAMP.reshape(-1).tolist()]
    pairs = zip(*[iter(twelve)] * 2, strict=True)
    packed = b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in pairs)
    values = read(tiff(packed, "II", t258=12)).astype(int)
    assert values.max() == 255 and abs(values - GREY).max() <= 1


def test_numbers_without_a_known_range_are_refused() -> None:
    for image, text in (
        (Image.fromarray(RAMP.astype(np.float32)), "floating-point pixels"),
        (Image.fromarray(RAMP.astype(np.int32) * 3), r"pixels of 0\.\.196605"),
        (Image.fromarray(RAMP.astype(np.int32) - 5), r"pixels of -5\.\.65530"),
    ):
        with pytest.raises(DataError, match=text) as caught:
            read(encoded(image, "TIFF"))
        assert "a.tiff" in str(caught.value) and not isinstance(caught.value, DamagedImage)
    assert np.array_equal(read(encoded(Image.fromarray(RAMP.astype(np.int32)), "TIFF")), GREY)


def test_transparent_places_are_white_whatever_colour_lies_there() -> None:
    image = Image.new("RGBA", (6, 5), (200, 10, 10, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 128))
    for kind in ("PNG", "WEBP", "TIFF"):
        values = read(encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {})), 3)
        assert values[0, 0].tolist() == [255, 255, 255] and values[0, 1].tolist() == [127, 127, 127], kind
        assert values[1, 1].tolist() == [200, 10, 10]
    grey = image.convert("LA")
    assert read(encoded(grey, "PNG"))[0, :3].tolist() == [255, 127, grey.getpixel((2, 0))[0]]  # type: ignore[index]
    coloured = Image.new("P", (6, 5), 1)
    coloured.putpalette([0, 0, 0, 9, 8, 7])
    coloured.putpixel((0, 0), 0)
    for kind, transparency in (("PNG", 0), ("PNG", bytes((0, 255))), ("GIF", 0)):
        values = read(encoded(coloured, kind, transparency=transparency), 3)
        assert values[0, 0].tolist() == [255, 255, 255] and values[1, 1].tolist() == [9, 8, 7]
    keyed = Image.new("RGB", (6, 5), (1, 2, 3))
    keyed.putpixel((0, 0), (4, 5, 6))
    values = read(encoded(keyed, "PNG", transparency=(4, 5, 6)), 3)
    assert values[0, 0].tolist() == [255, 255, 255] and values[1, 1].tolist() == [1, 2, 3]


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    opaque = np.concatenate([colours, np.full((5, 6, 1), 255, np.uint8)], 2)
    assert np.array_equal(read(encoded(Image.fromarray(opaque), "PNG"), 3), colours)
    assert np.array_equal(
        read(encoded(Image.fromarray(opaque), "PNG")), np.asarray(Image.fromarray(colours).convert("L"))
    )


def test_print_colours_and_two_tones() -> None:
    print_colours = Image.new("CMYK", (6, 5), (0, 255, 255, 0))  # red
    for kind in ("JPEG", "TIFF"):
        red, green, blue = read(encoded(print_colours, kind), 3)[2, 2].tolist()
        assert red > 250 and green < 5 and blue < 5, kind
    tones = Image.new("1", (6, 5))
    tones.putpixel((3, 2), 1)
    assert read(encoded(tones, "PNG")).max() == 255 and read(encoded(tones, "PNG")).sum() == 255


def test_of_an_animation_or_many_pages_the_first_is_read() -> None:
    pages = [Image.new("RGB", (6, 5), (shade, 0, 0)) for shade in (10, 100, 200)]
    for kind, options in (("GIF", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {})):
        source = encoded(pages[0], kind, save_all=True, append_images=pages[1:], **options)
        assert read(source, 3)[0, 0].tolist() == [10, 0, 0], kind


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_images_are_turned_as_exif_says(kind: str, orientation: int) -> None:
    upright = np.zeros((40, 64), np.uint8)
    upright[:16, :16] = 255  # the upper left corner
    turned = {
        **{1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1], 5: upright.T},
        **{6: np.rot90(upright), 7: upright[::-1, ::-1].T, 8: np.rot90(upright, -1)},
    }[orientation]
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    source = encoded(Image.fromarray(np.ascontiguousarray(turned)), kind, exif=exif, **options)
    assert stored_size(source) == (40, 64)
    assert np.abs(decode(source, View((40, 64), 1, fixed=True))[..., 0].astype(int) - upright).max() < 20


def test_pixels_are_of_use_without_what_is_written_about_them() -> None:
    source = encoded(Image.new("L", (6, 5), 7), "JPEG", exif=b"Exif\0\0broken")
    assert abs(int(read(source)[0, 0]) - 7) <= 1


def test_what_a_file_is_called_opens_no_other_format(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.new("RGB", (6, 5)).save(path, "EPS")

    def start(*_: object, **__: object) -> None:
        raise AssertionError("another program was started")

    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", start)
    with pytest.raises(DamagedImage, match=r"a\.jpg is not a readable image \(it begins like none of JPEG"):
        decode(str(path), PLAIN)


def png_of(width: int, height: int) -> Encoded:
    """A grey PNG that says it is that large, and holds no pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return Encoded("big.png", b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_an_image_that_is_too_large_is_refused_by_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    before = Image.MAX_IMAGE_PIXELS
    for width, height in ((9000, 8000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)):
        with pytest.raises(DataError, match=rf"big\.png has {width}x{height} pixels, more than 64,000,000.*max_pixels"):
            decode(png_of(width, height), PLAIN)
        with pytest.raises(DataError, match="max_pixels"):
            stored_size(png_of(width, height))
    assert stored_size(png_of(20_000, 20_000), 10**9) == (20_000, 20_000)  # beyond where Pillow gives up, too
    assert Image.MAX_IMAGE_PIXELS == before


def test_an_elongated_image_is_refused_before_it_is_enlarged(monkeypatch: pytest.MonkeyPatch) -> None:
    source = encoded(Image.new("L", (60_000, 1)), "PNG")
    monkeypatch.setattr(decoding, "_resized", lambda *given: pytest.fail("enlarged"))
    with pytest.raises(DataError, match=r"60000x1, with a shorter side of 256 it would be 15360000x256"):
        decode(source, View((224, 224), 1, shorter=256))
