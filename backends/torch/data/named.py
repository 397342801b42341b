"""The well-known image sets, from an image tree, an archive of one, or torchvision's own files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nasir.backends.torch.data.archives import read_archive, unpack
from nasir.backends.torch.data.rawdata import DataContext, Found, RawData, read_options
from nasir.datasets.decoded import cache_root, read_tree
from nasir.errors import DataError

_ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass(frozen=True, slots=True)
class _Known:
    """`vision`: class in torchvision.datasets; `marker`: what its files look like below the root it is given."""

    name: str
    vision: str
    marker: str
    channels: int
    by_split: bool = False


def cifar10(options: Mapping[str, Any], where: DataContext) -> RawData:
    """CIFAR-10: 50,000 + 10,000 colour images 32x32 in 10 classes (Krizhevsky 2009)."""
    return _find(_Known("cifar10", "CIFAR10", "cifar-10-batches-py", 3), options, where)


def cifar100(options: Mapping[str, Any], where: DataContext) -> RawData:
    """CIFAR-100: 50,000 + 10,000 colour images 32x32 in 100 classes (Krizhevsky 2009)."""
    return _find(_Known("cifar100", "CIFAR100", "cifar-100-python", 3), options, where)


def svhn(options: Mapping[str, Any], where: DataContext) -> RawData:
    """SVHN, cropped digits: 73,257 + 26,032 colour images 32x32 in 10 classes (Netzer et al. 2011)."""
    return _find(_Known("svhn", "SVHN", "train_32x32.mat", 3, by_split=True), options, where)


def mnist(options: Mapping[str, Any], where: DataContext) -> RawData:
    """MNIST: 60,000 + 10,000 grey images 28x28 in 10 classes (LeCun et al. 1998); `pad_to: 32` makes them 32x32."""
    return _find(_Known("mnist", "MNIST", "MNIST/raw", 1), options, where)


def fashion_mnist(options: Mapping[str, Any], where: DataContext) -> RawData:
    """Fashion-MNIST: 60,000 + 10,000 grey images 28x28 in 10 classes (Xiao et al. 2017)."""
    return _find(_Known("fashion_mnist", "FashionMNIST", "FashionMNIST/raw", 1), options, where)


def _find(known: _Known, options: Mapping[str, Any], where: DataContext) -> RawData:
    chosen = read_options(known.name, options, {"root": None, "download": False})
    roots = _roots(known, chosen["root"], where)
    for root in roots:
        below = _read_below(known, root)
        if below is not None:
            return below
    if chosen["download"]:
        target = roots[0] if chosen["root"] is not None else cache_root()
        return _from_torchvision(known, target, download=True)
    raise DataError(
        f"data set {known.name!r}: not found in {', '.join(map(str, roots))}; put there either a tree "
        f"{known.name}/{{train,test}}/<class>/*.jpg, an archive of it {known.name}.tar.gz, or torchvision's files "
        f"({known.marker}), or name their folder with the option `root:` or the variable NASIR_DATA, "
        "or let nasir fetch them with the option `download: true`"
    )


def _roots(known: _Known, root: object, where: DataContext) -> list[Path]:
    """Folders searched, in order; one that the spec names is the only one, or data would be taken from elsewhere."""
    if root is not None:
        if not isinstance(root, str):
            raise DataError(f"data set {known.name!r}: option 'root' is {root!r}; give the path of a folder")
        return [where.path(root)]
    named = os.environ.get("NASIR_DATA")
    return [Path(named).expanduser(), cache_root()] if named else [cache_root()]


def _read_below(known: _Known, root: Path) -> RawData | None:
    for base in (root / known.name, root):
        if (base / known.marker).exists():
            return _from_torchvision(known, base, download=False)
        if (base / "train").is_dir() and (base / "test").is_dir():
            return _from_tree(known, base)
    for suffix in _ARCHIVES:
        archive = root / f"{known.name}{suffix}"
        if archive.is_file():
            return _from_archive(known, archive)
    return None


def _from_archive(known: _Known, archive: Path) -> RawData:
    read = read_archive(archive, ("", f"{known.name}/"), known.channels)
    if read is not None:
        return read
    folder = unpack(archive)
    for base in (folder, folder / known.name):
        if (base / "train").is_dir() and (base / "test").is_dir():
            return _from_tree(known, base)
    raise DataError(
        f"data set {known.name!r}: {archive} holds no train/ and test/ folders (at its top or below "
        f"{known.name}/); pack a tree {{train,test}}/<class>/*.jpg"
    )


def _from_tree(known: _Known, base: Path) -> RawData:
    images, tree = read_tree(base / "train", None, known.channels)
    test_images, test = read_tree(base / "test", None, known.channels, tree)
    parts = [torch.from_numpy(array) for array in (images, tree.labels, test_images, test.labels)]
    return RawData(parts[0], parts[1], parts[2], parts[3], tree.classes, found=Found(notes=tree.notes + test.notes))


def _from_torchvision(known: _Known, root: Path, download: bool) -> RawData:
    from torchvision import datasets  # slow to import, and not needed for a tree or an archive

    make: Callable[..., Any] = getattr(datasets, known.vision)
    parts: list[Any] = []
    for part in ("train", "test"):
        choice = {"split": part} if known.by_split else {"train": part == "train"}
        try:
            parts.append(make(str(root), download=download, **choice))
        except (RuntimeError, OSError, ImportError) as error:
            raise DataError(
                f"data set {known.name!r}: torchvision cannot read it in {root} ({error}); "
                "remove the damaged files and set `download: true`, or use an image tree"
            ) from error
    names = getattr(parts[0], "classes", None) or [str(label) for label in range(10)]
    (images, labels), (test_images, test_labels) = (_arrays(part) for part in parts)
    return RawData(images, labels, test_images, test_labels, tuple(map(str, names)))


def _arrays(part: Any) -> tuple[Tensor, Tensor]:
    """Pixels as uint8 [N, C, H, W] and labels, from the three layouts torchvision's classes use."""
    pixels = np.asarray(part.data)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    elif pixels.shape[-1] == 3:
        pixels = pixels.transpose(0, 3, 1, 2)
    labels = np.asarray(part.targets if hasattr(part, "targets") else part.labels, dtype=np.int64)
    return torch.from_numpy(np.array(pixels, dtype=np.uint8, order="C")), torch.from_numpy(labels.copy())
