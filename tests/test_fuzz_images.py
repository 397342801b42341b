"""Damaged images of every format that is read: each is decoded, or refused by name, in little time and memory."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from fuzzing import fuzz, mutate_bytes, mutated, mutations
from PIL import Image

from nasir.images.decode import Encoded, View, decode, stored_size

KINDS: dict[str, tuple[tuple[str, ...], tuple[dict[str, Any], ...]]] = {
    "JPEG": (
        ("RGB", "L", "CMYK"),
        ({}, {"progressive": True}, {"turned": True}),
    ),
    "PNG": (("RGB", "L", "1", "P", "RGBA", "LA", "I;16"), ({}, {"compress_level": 0})),
    "GIF": (("P", "L"), ({}, {"animated": True}, {"transparency": 1})),
    "TIFF": (
        ("RGB", "L", "1", "P", "RGBA", "CMYK", "I;16"),
        ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "packbits"}),
    ),
    "WEBP": (("RGB", "RGBA"), ({}, {"lossless": True}, {"animated": True})),
    "BMP": (("RGB", "L", "1", "P"), ({},)),
    "PPM": (("RGB", "L", "1", "I;16"), ({},)),
}
VIEWS = (View((8, 8)), View((6, 7), 1), View((8, 8), 3, shorter=9), View((24, 31), 3, fixed=True))


def originals() -> list[bytes]:
    """A small image of each format, mode and variant."""
    random = np.random.default_rng(0)
    colours = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((31, 24))
    deep = Image.fromarray(random.integers(0, 65536, (24, 31), dtype=np.uint16))
    made = []
    for kind, (modes, variants) in KINDS.items():
        for mode in modes:
            image = deep if mode == "I;16" else colours.convert(mode)
            for variant in variants:
                options = dict(variant)
                if options.pop("turned", False):
                    options["exif"] = Image.Exif()
                    options["exif"][0x112] = 6
                if options.pop("animated", False):
                    options |= {"save_all": True, "append_images": [image.rotate(90)]}
                held = io.BytesIO()
                image.save(held, kind, **options)
                made.append(held.getvalue())
    return made


def look(data: bytes) -> None:
    """All that is done with an image: its header is read, and it is decoded, in one of the ways."""
    source = Encoded("image", data)
    view = VIEWS[len(data) % len(VIEWS)]
    stored_size(source)
    decode(source, view)


def test_originals_are_read() -> None:
    for data in originals():
        for view in VIEWS:
            wanted = replace(view, size=stored_size(Encoded("image", data))) if view.fixed else view
            assert decode(Encoded("image", data), wanted).shape == (*wanted.size, view.channels)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # as in a run: what Pillow warns about it reads
@pytest.mark.timeout(7200)
def test_fuzzed_images_are_decoded_or_refused() -> None:
    taken, refused = fuzz(look, mutated(originals(), mutate_bytes, mutations(1000), seed="images"))
    assert taken and refused
