"""Shipped data sets: right shapes and values, fixed test parts, safe archives, and errors that name the remedy."""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nasir.backends.torch.data import archives, shipped
from nasir.backends.torch.data.rawdata import DataContext, RawData
from nasir.datasets import decoded as image_files
from nasir.datasets.decoded import cache_root
from nasir.datasets.split import split_indices
from nasir.errors import DataError
from nasir.registry import datasets

HERE = DataContext(Path("."))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NASIR_DATA", raising=False)
    return tmp_path / "cache"


def _tree(root: Path, parts: tuple[str, ...] = ("train", "test"), count: int = 3, suffix: str = "png") -> Path:
    random = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (6, 5, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number:04}.{suffix}")
    return root


def test_all_shipped_names_resolve_by_entry_point() -> None:
    wanted = {"digits", "cifar10", "cifar100", "svhn", "mnist", "fashion_mnist", "image_folder", "npz", "synthetic"}
    assert wanted <= set(datasets.names())
    assert all(callable(datasets.get(name)) for name in wanted)


def test_digits_has_its_real_images_and_a_fixed_stratified_test_part() -> None:
    first, second = shipped.digits({}, HERE), shipped.digits({}, HERE)
    assert first.train_images.shape == (1438, 1, 8, 8)
    assert first.test_images.shape == (359, 1, 8, 8)
    assert int(first.train_images.max()) == 255
    assert torch.equal(first.test_images, second.test_images)
    assert torch.bincount(first.test_labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert int(first.test_images.sum(dtype=torch.int64)) == 1787888  # recorded: a changed split would spoil comparisons


def test_split_keeps_class_shares_and_counts_exactly() -> None:
    labels = np.repeat([0, 1, 2], [70, 20, 10])
    picked = split_indices(labels, 33, (1, 2))
    assert len(set(picked.tolist())) == 33
    assert np.bincount(labels[picked]).tolist() == [23, 7, 3]
    assert np.array_equal(picked, split_indices(labels, 33, (1, 2)))
    assert not np.array_equal(picked, split_indices(labels, 33, (1, 3)))


def test_synthetic_gives_images_or_vectors() -> None:
    made = shipped.synthetic({"classes": 3, "channels": 2, "size": 5, "train": 30, "test": 9}, HERE)
    assert made.train_images.shape == (30, 2, 5, 5) and made.train_images.dtype == torch.uint8
    vectors = shipped.synthetic({"features": 7}, HERE)
    assert vectors.train_images.shape == (256, 7) and vectors.train_images.dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("digits", {"size": 8}, "unknown option 'size'"),
        ("synthetic", {"clases": 3}, "did you mean 'classes'"),
        ("synthetic", {"classes": "3"}, "expected int"),
        ("synthetic", {"train": 0}, "positive"),
        ("image_folder", {}, "option 'path' is missing"),
        ("image_folder", {"path": "nowhere"}, "no folder"),
        ("npz", {"path": "nowhere.npz"}, "no file"),
        ("cifar10", {"root": 3}, "give the path of a folder"),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError) as caught:
        datasets.get(name)(options, HERE)
    assert message in str(caught.value)


def test_npz_reads_grey_images_and_vectors_relative_to_the_spec(tmp_path: Path) -> None:
    grey = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    labels = np.array([0, 1, 2, 1], np.int32)
    np.savez(tmp_path / "a.npz", x_train=grey, y_train=labels, x_test=grey[:1], y_test=labels[:1])
    read = shipped.npz({"path": "a.npz"}, DataContext(tmp_path))
    assert read.train_images.shape == (4, 1, 2, 3) and len(read.class_names) == 3
    vectors = np.random.default_rng(0).random((4, 9))
    np.savez(tmp_path / "b.npz", x_train=vectors, y_train=labels, x_test=vectors, y_test=labels)
    assert shipped.npz({"path": "b.npz"}, DataContext(tmp_path)).train_images.dtype == torch.float32


def test_npz_refuses_pickles_gaps_and_odd_labels(tmp_path: Path) -> None:
    values, labels = np.zeros((2, 3), np.float32), np.array([0, 1])
    good = {"x_train": values, "y_train": labels, "x_test": values, "y_test": labels}
    cases = {
        "lacks y_test": {key: good[key] for key in list(good)[:3]},
        "cannot be read": {**good, "x_train": np.array([{}, {}], dtype=object)},
        "whole number": {**good, "y_train": labels.astype(float)},
        "span -1": {**good, "y_train": labels - 1},
        "not finite": {**good, "x_train": values + np.nan},
        "one label for each": {**good, "y_train": np.array([0])},
        "no example has the label 1, and the largest is 3; number the 3 classes 0..2": {
            **good,
            "y_train": np.array([0, 3]),
            "y_test": np.array([0, 2]),
        },
        "no example has the label 2, and the largest is 2000000000": {**good, "y_train": np.array([0, 2 * 10**9])},
        "has the label 18446744073709551615": {**good, "y_train": np.array([0, 2**64 - 1], np.uint64)},
    }
    for message, arrays in cases.items():
        np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            shipped.npz({"path": "x.npz"}, DataContext(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"PK not a zip")
    with pytest.raises(DataError, match="cannot be read"):
        shipped.npz({"path": "x.npz"}, DataContext(tmp_path))


def test_image_folder_reads_a_tree_and_keeps_the_decoded_arrays(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _tree(tmp_path / "pets")
    read = shipped.image_folder({"path": "pets"}, DataContext(tmp_path))
    assert read.train_images.shape == (6, 3, 6, 5) and read.class_names == ("cat", "dog")
    with Image.open(tmp_path / "pets/train/dog/0001.png") as image:
        assert np.array_equal(read.train_images[4].permute(1, 2, 0).numpy(), np.asarray(image))
    assert len(list((cache / "decoded").iterdir())) == 2

    def refuse(*_: object) -> None:
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(image_files, "decode_each", refuse)
    again = shipped.image_folder({"path": "pets"}, DataContext(tmp_path))
    assert torch.equal(again.test_images, read.test_images)


def test_a_changed_tree_is_decoded_anew_and_a_torn_cache_is_replaced(tmp_path: Path, cache: Path) -> None:
    _tree(tmp_path / "pets")
    where = DataContext(tmp_path)
    before = shipped.image_folder({"path": "pets"}, where)
    for kept in (cache / "decoded").iterdir():
        kept.write_bytes(kept.read_bytes()[:100])
    assert torch.equal(shipped.image_folder({"path": "pets"}, where).train_images, before.train_images)
    Image.new("RGB", (5, 6), (255, 0, 0)).save(tmp_path / "pets/train/cat/0000.png")
    os.utime(tmp_path / "pets/train/cat/0000.png", (2e9, 2e9))
    after = shipped.image_folder({"path": "pets"}, where)
    assert after.train_images[0, 0].min() == 255


def test_image_folder_cuts_a_test_part_resizes_and_greys(tmp_path: Path, cache: Path) -> None:
    root = _tree(tmp_path, ("all",), count=10) / "all"
    options = {"path": str(root), "test_fraction": 0.2, "size": 8, "channels": 1}
    read = shipped.image_folder(options, HERE)
    assert read.train_images.shape == (16, 1, 8, 8)
    assert torch.bincount(read.test_labels).tolist() == [2, 2]


def test_image_folder_errors_name_the_file_and_the_remedy(tmp_path: Path, cache: Path) -> None:
    root = _tree(tmp_path, ("train",)) / "train"
    with pytest.raises(DataError, match="test_path"):
        shipped.image_folder({"path": str(root)}, HERE)
    Image.new("RGB", (9, 9)).save(root / "dog" / "9999.png")
    with pytest.raises(DataError, match=r"9999\.png is 9x9, .* is 5x6; give `size:`"):
        shipped.image_folder({"path": str(root), "test_fraction": 0.5}, HERE)
    (root / "dog" / "9999.png").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"9999\.png is not a readable image"):
        shipped.image_folder({"path": str(root), "test_fraction": 0.5}, HERE)
    (root / "dog" / "9999.png").unlink()
    (tmp_path / "test" / "cow").mkdir(parents=True)
    with pytest.raises(DataError, match="other classes"):
        shipped.image_folder({"path": str(root), "test_path": str(tmp_path / "test"), "size": 4}, HERE)


def _packed(tree: Path, archive: Path) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(tree.rglob("*")):
                packed.write(path, path.relative_to(tree))
        return archive
    with tarfile.open(archive, "w" if archive.suffix == ".tar" else "w:gz") as packed_tar:
        packed_tar.add(tree, ".")
    return archive


def test_cifar10_is_found_as_tree_and_as_archive_and_otherwise_lists_the_remedies(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError) as caught:
        shipped.cifar10({}, HERE)
    assert all(word in str(caught.value) for word in ("NASIR_DATA", "download: true", "cifar10.tar.gz", "root:"))
    tree = _tree(tmp_path / "data" / "cifar10", suffix="jpg")
    monkeypatch.setenv("NASIR_DATA", str(tmp_path / "data"))
    by_tree = shipped.cifar10({}, HERE)
    _packed(tree, tmp_path / "packed" / "cifar10.tar.gz")
    by_archive = shipped.cifar10({"root": "packed"}, DataContext(tmp_path))
    assert torch.equal(by_tree.train_images, by_archive.train_images)
    assert torch.equal(shipped.cifar10({"root": str(tmp_path / "packed")}, HERE).test_images, by_tree.test_images)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tgz", "zip"])
@pytest.mark.parametrize("top", ["", "cifar10"])
def test_an_archive_is_read_as_its_tree_without_unpacking_it_and_once(
    suffix: str, top: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = _tree(tmp_path / "tree" / top)
    for name in ("train/ant", "test/ant"):
        (tree / name).mkdir()  # a folder without images is no class
    (tree / "train/dog/readme.txt").write_text("no image")
    (tree / "train/dog/deeper").mkdir()
    (tree / "train/dog/deeper/0000.png").write_bytes(b"not looked at")
    _packed(tmp_path / "tree", tmp_path / f"cifar10.{suffix}")
    unpacked = shipped.image_folder({"path": str(tree)}, HERE)
    read = shipped.cifar10({"root": str(tmp_path)}, HERE)
    assert read.class_names == unpacked.class_names == ("cat", "dog")
    assert all("no images in ant" in note for note in (*read.found.notes, *unpacked.found.notes))
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(read, name), getattr(unpacked, name)), name
    assert not (cache / "unpacked").exists()

    def refuse(*_: object) -> None:
        raise AssertionError("decoded a second time")

    monkeypatch.setattr(archives, "decode_all", refuse)
    again = shipped.cifar10({"root": str(tmp_path)}, HERE)
    assert torch.equal(again.test_images, read.test_images) and again.class_names == read.class_names
    with pytest.raises(AssertionError, match="second time"):  # another version of the archive
        os.utime(tmp_path / f"cifar10.{suffix}", (2e9, 2e9))
        shipped.cifar10({"root": str(tmp_path)}, HERE)


def test_an_archive_with_links_is_unpacked_and_so_is_found_later(tmp_path: Path, cache: Path) -> None:
    tree = _tree(tmp_path / "tree")
    wanted = shipped.image_folder({"path": str(tree)}, HERE)
    target = tree / "train/dog/0002.png"
    target.rename(tree / "elsewhere.png")
    target.symlink_to("../../elsewhere.png")
    _packed(tree, tmp_path / "cifar10.tar.gz")
    for _ in range(2):
        read = shipped.cifar10({"root": str(tmp_path)}, HERE)
        assert torch.equal(read.train_images, wanted.train_images)
        assert len(list((cache / "unpacked").iterdir())) == 1  # unpacked once, nothing left aside


def test_an_archive_names_its_damaged_image_and_other_classes(tmp_path: Path, cache: Path) -> None:
    tree = _tree(tmp_path / "tree")
    (tree / "train/dog/0001.png").write_bytes(b"not an image")
    archive = _packed(tree, tmp_path / "cifar10.tar.gz")
    with pytest.raises(DataError) as caught:
        shipped.cifar10({"root": str(tmp_path)}, HERE)
    assert f"{archive}: train/dog/0001.png is not a readable image" in str(caught.value)
    (tree / "test/cow").mkdir()
    _packed(tree, archive)
    with pytest.raises(DataError, match="other classes than the training folder: cow"):
        shipped.cifar10({"root": str(tmp_path)}, HERE)
    assert not list((cache / "decoded").glob("*")) and not (cache / "unpacked").exists()


@pytest.mark.parametrize("name", ["cifar10.tar.gz", "cifar10.tar", "cifar10.zip"])
def test_a_damaged_archive_is_a_data_error(name: str, tmp_path: Path, cache: Path) -> None:
    archive = _packed(_tree(tmp_path / "tree", count=30), tmp_path / name)
    whole = archive.read_bytes()
    middle = len(whole) // 2 // 512 * 512
    for damaged in (whole[:middle], whole[:middle] + b"?" * 2048 + whole[middle + 2048 :], b"no archive"):
        archive.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be unpacked"):
            shipped.cifar10({"root": str(tmp_path)}, HERE)
    assert not list(cache.glob("*/*"))


def test_an_archive_that_reaches_out_of_its_folder_is_refused(tmp_path: Path, cache: Path) -> None:
    with tarfile.open(tmp_path / "cifar10.tar.gz", "w:gz") as archive:
        member = tarfile.TarInfo("../escaped.txt")
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(DataError, match="cannot be unpacked"):
        shipped.cifar10({"root": str(tmp_path)}, HERE)
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list(cache.rglob("*/*"))


def test_mnist_reads_torchvision_files_as_they_lie(tmp_path: Path, cache: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        header = (0x00000803).to_bytes(4, "big") + b"".join(n.to_bytes(4, "big") for n in (count, 28, 28))
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(count * 784))
        labels = (0x00000801).to_bytes(4, "big") + count.to_bytes(4, "big") + bytes(range(count))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    read = shipped.mnist({"root": str(tmp_path)}, HERE)
    assert read.train_images.shape == (5, 1, 28, 28) and read.test_labels.tolist() == [0, 1, 2]
    assert len(read.class_names) == 10


def test_damaged_torchvision_files_are_a_data_error(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(DataError, match="torchvision cannot read it"):
        shipped.cifar10({"root": str(tmp_path)}, HERE)


def test_raw_data_must_fit_together() -> None:
    images, labels = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.tensor([0, 1])
    with pytest.raises(DataError, match="one shape and type"):
        RawData(images, labels, images[..., :3], labels, ("a", "b"))
    with pytest.raises(DataError, match=r"number them 0\.\.0"):
        RawData(images, labels, images, labels, ("a",))
    with pytest.raises(DataError, match="use uint8 or float32"):
        RawData(images.double(), labels, images, labels, ("a", "b"))


def _has_cifar10() -> bool:
    roots = [Path(os.environ["NASIR_DATA"])] if "NASIR_DATA" in os.environ else []
    kinds = ("cifar10/train", "cifar10.tar.gz", "cifar-10-batches-py")
    return any((root / kind).exists() for root in [*roots, cache_root()] for kind in kinds)


@pytest.mark.slow
@pytest.mark.skipif(not _has_cifar10(), reason="no CIFAR-10 below NASIR_DATA or in the cache folder")
def test_real_cifar10_has_its_counts_and_means() -> None:
    read = shipped.cifar10({}, HERE)
    assert read.train_images.shape == (50000, 3, 32, 32) and read.test_images.shape == (10000, 3, 32, 32)
    assert torch.bincount(read.train_labels).tolist() == [5000] * 10
    assert torch.bincount(read.test_labels).tolist() == [1000] * 10
    means = [float(read.train_images[:, channel].double().mean()) / 255 for channel in range(3)]
    assert means == pytest.approx([0.4914, 0.4822, 0.4465], abs=0.003)
