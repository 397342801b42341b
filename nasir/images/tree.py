"""Trees of images, one folder a class: which files and folders count, and which class each image has."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from nasir.errors import DataError
from nasir.images.decode import ImageSource

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif")
SYSTEM = frozenset(
    {
        "@eaDir",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "System Volume Information",
        "__MACOSX",
        "__pycache__",
        "lost+found",
    }
)
"""Folders that systems and programs make by themselves, beside all that begin with a dot."""
Image = TypeVar("Image", bound=ImageSource)


@dataclass(frozen=True, slots=True)
class Files:
    """Paths of image files, and the label of each: int64 [N] in 0..classes-1."""

    paths: tuple[str, ...]
    labels: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, positions: np.ndarray[Any, Any]) -> Files:
        """Those at `positions`, in that order."""
        return Files(tuple(self.paths[position] for position in positions), self.labels[positions])


def is_class(folder: str) -> bool:
    """Whether a folder of that name may be a class."""
    return not folder.startswith(".") and folder not in SYSTEM


def is_image(file: str) -> bool:
    """Whether a file of that name may be an image; names that begin with a dot are those of notes about files."""
    return not file.startswith(".") and file.lower().endswith(SUFFIXES)


@dataclass(frozen=True, slots=True)
class Tree(Generic[Image]):
    """The images of a tree, sorted by class and name, the label of each, int64 [N], and the classes.

    `empty`: folders without images, which are no classes. `notes`: remarks.
    """

    images: tuple[Image, ...]
    labels: np.ndarray[Any, Any]
    classes: tuple[str, ...]
    empty: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def find_files(folder: Path, like: Tree[str] | None = None) -> tuple[Files, Tree[str]]:
    """The images `folder/<class>/*.jpg` and their tree; see `by_class`."""
    images_of: dict[str, list[str]] = {}
    for entry in os.scandir(folder):
        if is_class(entry.name) and entry.is_dir():
            with os.scandir(entry.path) as entries:
                images_of[entry.name] = [image.path for image in entries if is_image(image.name)]
    tree = by_class(str(folder), images_of, like)
    return Files(tree.images, tree.labels), tree


def by_class(place: str, images_of: Mapping[str, Iterable[Image]], like: Tree[Image] | None = None) -> Tree[Image]:
    """The tree of the images that lie in each folder.

    A folder without images is no class, unless the training tree, `like`, has that class. DataError where there are no
    images, or other folders than there; it calls where they were found `place`.
    """
    sorted_images = {name: tuple(sorted(images_of[name])) for name in sorted(images_of)}
    full = tuple(name for name, images in sorted_images.items() if images)
    if like is not None:
        unused = {name for name in like.empty if name not in full}
        odd = sorted(set(images_of) - unused ^ set(like.classes))
        if odd:
            raise DataError(f"{place} has other classes than the training folder: {', '.join(odd)}; make them equal")
    if not full:
        raise DataError(f"{place} holds no images; expected <class>/<image>.jpg (or {', '.join(SUFFIXES[1:4])})")
    classes = full if like is None else like.classes
    images = tuple(image for name in classes for image in sorted_images[name])
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(sorted_images[name]) for name in classes])
    empty = tuple(name for name in sorted_images if name not in classes)
    notes = (f"{place}: no images in {', '.join(empty)}, so that is no class",) if empty else ()
    return Tree(images, labels, classes, empty, notes)
