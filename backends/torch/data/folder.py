"""The data set `image_folder`: a tree of images, decoded into memory or, when that would be too much, streamed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from nasir.backends.torch.data.rawdata import FileData, Found, RawData, hold_out
from nasir.datasets.folder import find_folder, read_folder
from nasir.datasets.options import DataContext
from nasir.datasets.split import SPLIT_SEED


def image_folder(options: Mapping[str, Any], where: DataContext) -> RawData | FileData:
    """One folder a class, images in it; tested on `test_path`, a `test_fraction`, or `test/` beside `train/` in `path`.

    `size`: side length (or [height, width]) of what the network sees, needed when the images differ: they are
    resized to it. With `resize` the shorter side becomes that long and the middle of `size` is cut out (256 and 224
    are usual for ImageNet). `channels`: 3 or 1 (grey). `mean` and `std`: a number for each channel, of pixels in
    0..1, that normalisation uses; without them they are measured.

    `stream: true` leaves the images in their files; `workers` processes (default: the cores this process may use, at
    most 8; 0: none) decode each when a batch needs it. `false` decodes all into memory, once, and keeps the result
    in the cache; `auto` streams when the decoded training images would take more than 4 GiB. Either way the network
    sees the same pixels; only the augmentation `random_resized_crop` needs streaming, and means and deviations are
    then measured on 2,000 images instead of all.

    `unreadable: skip` leaves out images whose files are damaged, instead of refusing the data; images of more than
    `max_pixels` (64 million) are refused in any case.
    """
    folder = find_folder(options, where)
    read = read_folder(folder)
    found = Found(read.sizes, read.skipped, folder.notes)
    if folder.stream:
        train, test = folder.divided(read.files[0]) if folder.fraction is not None else read.files
        return FileData(train, test, folder.names, folder.view, folder.workers, folder.constants, found)
    images = [torch.from_numpy(array) for array in read.images]
    labels = [torch.from_numpy(files.labels) for files in read.files]
    if folder.fraction is None:
        return RawData(images[0], labels[0], images[1], labels[1], folder.names, folder.constants, found)
    cut = hold_out(images[0], labels[0], folder.names, folder.fraction, SPLIT_SEED)
    return replace(cut, constants=folder.constants, found=found)
