"""Folders as people have them: files of systems, empty classes, damaged and oddly stored images; in memory and streamed
alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nasir
from nasir.backends.torch.data import shipped
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext, FileData, RawData
from nasir.datasets import decoded
from nasir.errors import DataError
from nasir.images.decode import DamagedImage
from nasir.records import DataSummary, EpochRecord, StartRecord
from nasir.training.plans import DataPlan

CPU = torch.device("cpu")
SIDE = 8


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NASIR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three classes with every way of storing an image, and what systems leave in folders."""
    random = np.random.default_rng(0)
    for part, count in (("train", 6), ("test", 2)):
        for name in ("cat", "dog", "emu"):
            folder = tmp_path / "pets" / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    train = tmp_path / "pets" / "train"
    noise = random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(train / "cat/depth.png")
    Image.fromarray(noise).convert("CMYK").save(train / "cat/print.jpg")
    Image.fromarray(noise).convert("LA").save(train / "dog/alpha.png")
    Image.fromarray(noise).save(train / "dog/moving.gif", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))])
    exif = Image.Exif()
    exif[0x112] = 6
    Image.fromarray(noise).save(train / "emu/turned.jpg", exif=exif)
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", ".hidden"):
        for part in ("train", "test"):
            (tmp_path / "pets" / part / name).mkdir()
        Image.new("RGB", (SIDE, SIDE)).save(train / name / "cat-checkpoint.png")
    (train / ".DS_Store").write_bytes(b"notes")
    (train / "cat/._0.png").write_bytes(b"notes about a file")
    return tmp_path / "pets"


def read(tree: Path, **options: Any) -> RawData | FileData:
    return shipped.image_folder({"path": str(tree), "workers": 0, **options}, DataContext(tree))


def both(tree: Path, **options: Any) -> tuple[RawData, FileData]:
    kept, streamed = read(tree, stream=False, **options), read(tree, stream=True, **options)
    assert isinstance(kept, RawData) and isinstance(streamed, FileData)
    return kept, streamed


def test_folders_of_systems_are_no_classes_and_both_ways_see_the_same(tree: Path) -> None:
    kept, streamed = both(tree)
    assert kept.class_names == streamed.class_names == ("cat", "dog", "emu")
    assert kept.train_labels.tolist() == streamed.train.labels.tolist() == [0] * 8 + [1] * 8 + [2] * 7
    for fraction in (None, 0.25):
        options = {} if fraction is None else {"test_fraction": fraction, "path": str(tree / "train")}
        plans = [
            DataPlan(
                "image_folder", {"path": str(tree), "workers": 0, **options, "stream": stream}, batch_size=4, seed=3
            )
            for stream in (False, True)
        ]
        first, second = (open_source(plan, DataContext(tree), CPU) for plan in plans)
        for name in ("batches", "validation", "test"):
            given = (0,) if name == "batches" else ()
            pairs = list(zip(getattr(first, name)(*given), getattr(second, name)(*given), strict=True))
            assert pairs or name == "validation"
            for (x, y), (other_x, other_y) in pairs:
                assert torch.equal(x, other_x) and torch.equal(y, other_y)


def test_a_folder_without_images_is_no_class_unless_training_has_it(tree: Path) -> None:
    for part in ("train", "test"):
        (tree / part / "yak").mkdir()
    for image in (tree / "test/emu").iterdir():
        image.unlink()
    for raw in both(tree):
        assert raw.class_names == ("cat", "dog", "emu")
        assert [note.endswith("no images in yak, so that is no class") for note in raw.found.notes] == [True, True]
    Image.new("RGB", (SIDE, SIDE)).save(tree / "test/yak/0.png")
    with pytest.raises(DataError, match="other classes than the training folder: yak"):
        read(tree)


@pytest.fixture
def damaged(tree: Path) -> list[Path]:
    """Images that are damaged in their header, or further in; `0.png` is the first that is looked at."""
    paths = [tree / "train/cat/0.png", tree / "train/dog/3.png", tree / "test/emu/1.png"]
    for path in paths:
        path.write_bytes(b"not an image")
    cut = tree / "train/emu/2.png"
    cut.write_bytes(cut.read_bytes()[:100])
    return sorted([*paths, cut])


@pytest.mark.parametrize("stream", [False, True])
def test_damaged_images_are_listed_at_once(tree: Path, damaged: list[Path], stream: bool) -> None:
    for _ in range(2):  # what is known from the cache too
        with pytest.raises(DamagedImage) as caught:
            read(tree, stream=stream)
        head, *lines = str(caught.value).splitlines()
        told = [path for path in damaged if not stream or path.name != "2.png"]  # streamed: only headers are looked at
        assert head == f"{len(told)} of 29 images cannot be used; or leave them out by `unreadable: skip`:"
        assert [sum(line.startswith(f"{path} is not a readable image") for line in lines) for path in told] == [
            1
        ] * len(told)


def test_damaged_images_are_left_out_alike(
    tree: Path, damaged: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        kept, streamed = both(tree, unreadable="skip", size=SIDE)
        assert sorted(kept.found.skipped) == sorted(streamed.found.skipped) == [str(path) for path in damaged]
        assert kept.train_labels.tolist() == streamed.train.labels.tolist() == [0] * 7 + [1] * 7 + [2] * 6
        assert kept.test_labels.tolist() == streamed.test.labels.tolist() == [0, 0, 1, 1, 2]
        assert len(kept.train_images) == 20 and len(streamed.train) == 20
        assert not set(streamed.train.paths) & {str(path) for path in damaged}
        monkeypatch.setattr(decoded, "decode_each", lambda *given: pytest.fail("decoded again"))


def test_what_an_option_mends_is_not_skipped(tree: Path) -> None:
    Image.new("RGB", (SIDE, SIDE + 1)).save(tree / "train/emu/tall.png")
    with pytest.raises(DataError, match=r"tall\.png is 8x9, the first image is 8x8; give `size:`"):
        read(tree, unreadable="skip", stream=False)
    for stream in (False, True):
        with pytest.raises(DataError, match=r"30 of 30 images cannot be used; the first 20:(.|\n)*max_pixels"):
            read(tree, unreadable="skip", size=SIDE, max_pixels=63, stream=stream)
        read(tree, size=SIDE, max_pixels=72, stream=stream)  # not refused by what the cache knows


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"unreadable": "ignore"}, "unreadable is 'ignore'; use refuse, or skip"),
        ({"max_pixels": 0}, "max_pixels is 0; give the number of pixels"),
        ({"max_pixels": "many"}, "option 'max_pixels' is 'many'; expected int"),
    ],
)
def test_bad_options_of_odd_folders_are_named(tree: Path, options: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        read(tree, **options)


SPEC = """\
nasir: 1
name: odd
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 4}
  - stage: {name: s1, block: basic, out: 4}
  - classifier: {classes: 3}
data:
  dataset: image_folder
  options: {path: pets, size: 8, workers: 0, unreadable: skip, stream: STREAM}
  batch_size: 8
  validation: 3
device: cpu
phases: [{name: t, epochs: 1, optimizer: {sgd: {lr: 0.05}}}]
"""


def test_a_run_on_such_a_folder_has_the_right_classes_and_says_what_it_found(tree: Path, damaged: list[Path]) -> None:
    (tree / "train/yak").mkdir()
    metrics = []
    for stream in ("false", "true"):
        spec = nasir.loads_spec(SPEC.replace("STREAM", stream), tree.parent / "odd.yaml")
        done = nasir.run(spec, tree.parent / f"run {stream}")
        start, epoch = done.journal[0], done.journal[2]
        assert isinstance(start, StartRecord) and isinstance(epoch, EpochRecord)
        data = DataSummary.from_json(start.data)
        assert data is not None and data.classes == ("cat", "dog", "emu")
        assert data.counts == {"train": (6, 6, 5), "validation": (1, 1, 1), "test": (2, 2, 1)}
        assert sorted(data.skipped) == [str(path) for path in damaged]
        assert ["no images in yak" in data.warnings[0], "4 damaged images left out" in data.warnings[1]] == [True, True]
        page = done.report.read_text()
        assert all(text in page for text in (*data.classes, "no images in yak", "4 damaged images", "balanced test"))
        metrics.append({**epoch.metrics, **done.metrics})
    assert metrics[0] == metrics[1]
