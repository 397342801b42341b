"""`nasir check` and the data: looked at without torch, by the same rules as a run, and told where they are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nasir
from nasir.backends.torch.data.in_memory import open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.cli.main import main
from nasir.datasets import split
from nasir.datasets.fit import lone_norms
from nasir.datasets.survey import look
from nasir.errors import DataAbsent, RunError, SpecError
from nasir.spec import load_spec
from nasir.training.plans import DataPlan

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASIR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A tree of three classes, with a damaged image and images of two sizes."""
    random = np.random.default_rng(0)
    for name, count in (("ant", 12), ("bee", 9), ("cat", 6)):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, 256, (8, 8 + number % 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "pets" / name / f"{number:02}.png")
    (tmp_path / "pets/bee/03.png").write_bytes(b"no image")
    return tmp_path


def save(folder: Path, **labels: Any) -> None:
    random = np.random.default_rng(0)
    arrays = {f"y_{part}": np.array(values) for part, values in labels.items()}
    arrays |= {f"x_{part}": random.random((len(values), 6)) for part, values in labels.items()}
    np.savez(folder / "a.npz", **arrays)  # type: ignore[arg-type]


FOLDER: dict[str, Any] = {"path": "pets", "size": 8, "test_fraction": 0.25, "workers": 0, "unreadable": "skip"}


@pytest.mark.parametrize(
    ("dataset", "options", "plan"),
    [
        ("digits", {}, {"validation": 0.1}),
        ("digits", {"pad_to": 11}, {"classes": ("3", "1"), "subset": 0.5}),
        ("synthetic", {"channels": 3}, {"validation": 40, "seed": 5}),
        ("synthetic", {"features": 7}, {"normalize": None}),
        ("npz", {"path": "a.npz"}, {"class_weights": "balanced"}),
        ("image_folder", {**FOLDER, "stream": False}, {"validation": 3, "seed": 2}),
        ("image_folder", {**FOLDER, "stream": True}, {"validation": 3, "seed": 2}),
        ("image_folder", {**FOLDER, "stream": True, "mean": [0.5] * 3, "std": [0.2] * 3}, {"classes": ("cat", "ant")}),
    ],
)
def test_the_summary_is_that_of_a_run(
    dataset: str, options: dict[str, Any], plan: dict[str, Any], pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(split, "MEASURED", 8)
    save(pets, train=[0, 1, 2, 1] * 6, test=[0, 1, 2])
    made = DataPlan(dataset, options, **plan)
    where = DataContext(pets)
    assert look(made, where, whole=True) == open_source(made, where, CPU).summary()
    quick = look(made, where)
    assert quick is not None and quick.shape == open_source(made, where, CPU).shape


SPEC = """\
nasir: 1
name: pets
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 8}
  - stage: {name: s1, block: basic, out: 8}
  - classifier: {classes: 3}
data: {dataset: image_folder, options: {path: pets, size: 8, test_fraction: 0.25}, validation: 3}
device: cpu
phases: [{name: t, epochs: 1, optimizer: {sgd: {lr: 0.05}}}]
"""
VECTORS = """\
nasir: 1
name: vectors
input: {vector: 6}
network: [{linear: {out: 8}}, relu, {linear: {out: 3}}]
data: {dataset: npz, options: {path: a.npz}, validation: 0}
device: cpu
phases: [{name: t, epochs: 1, optimizer: {sgd: {lr: 0.05}}}]
"""


def check(folder: Path, text: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    (folder / "a.yaml").write_text(text)
    code = main(["check", str(folder / "a.yaml"), *more])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "classes: 3",
            "classes: 4",
            ":5:3: network: the network gives [4] logits, data set 'image_folder' has 3 c",
        ),
        ("[3, 8, 8]", "[3, 9, 9]", ":3:8: input: the network takes [3, 9, 9], data set 'image_folder' has examples of"),
        ("size: 8", "sice: 8", ":8:7: data: data set 'image_folder': unknown option 'sice'; did you mean 'size'?"),
        ("validation: 3", "validation: 30", ":8:7: data: data set 'image_folder': validation takes 30 of 20"),
        ("validation: 3", "classes: [ant, bat]", "there is no class 'bat'"),
        ("validation: 3", "class_weights: [1, 2]", "class_weights has 2 numbers, and there are 3 classes"),
    ],
)
def test_what_is_wrong_with_the_data_is_told_with_its_place(
    old: str, new: str, words: str, pets: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(pets, SPEC, capsys)[0] == 0
    code, _, err = check(pets, SPEC.replace(old, new), capsys)
    assert code == 2 and words in err, err
    assert str(pets / "a.yaml") in err


def test_labels_are_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for train, words in (
        ([0, 1, 2, 3], "the network gives [3] logits, data set 'npz' has 4 classes; set `classes: 4` (0, 1, 2, 3)"),
        ([0, 1, 3], "no example has the label 2, and the largest is 3; number the 3 classes 0..2"),
        ([0, 1, 2 * 10**9], "no example has the label 2, and the largest is 2000000000"),
        ([0, 1, -1], "y_train: labels span -1..1; number the classes from 0"),
        ([0, 1, 2], ""),
    ):
        save(tmp_path, train=train, test=[0, 1])
        code, _, err = check(tmp_path, VECTORS, capsys)
        assert code == (2 if words else 0) and words in err
    assert "note: data: no test examples of 2" in err
    (tmp_path / "a.npz").write_bytes(b"PK\3\4 no archive")
    code, _, err = check(tmp_path, VECTORS, capsys)
    assert code == 2 and "cannot be read" in err


def test_data_that_are_elsewhere_are_not_looked_at_which_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = check(tmp_path, SPEC, capsys)
    assert code == 0 and "pets: correct" in out
    assert err.startswith("note: the data were not looked at: data set 'image_folder': no folder ")
    assert check(tmp_path, SPEC, capsys, "--data")[0] == 2
    named = SPEC.replace("image_folder, options: {path: pets, size: 8, test_fraction: 0.25}", "cifar10")
    code, _, err = check(tmp_path, named, capsys)
    assert code == 0 and err == "note: the data were not looked at: only a run can read 'cifar10'\n"
    with pytest.raises(DataAbsent):
        look(DataPlan("npz", {"path": "a.npz"}), DataContext(tmp_path))


def test_all_of_the_data_are_summarized_on_demand(pets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = check(pets, SPEC, capsys)
    assert code == 0 and "training examples" not in out  # the damaged image is not looked at
    code, _, err = check(pets, SPEC, capsys, "--data")
    assert code == 2 and "03.png is not a readable image" in err and "unreadable: skip" in err
    code, out, _ = check(pets, SPEC.replace("size: 8,", "size: 8, unreadable: skip,"), capsys, "--data")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    for line in ("training examples 17", "validation examples 3", "test examples 6", "image size 8x8 to 9x8"):
        assert line in lines
    assert "ant 8 1 3" in lines and any(line.startswith("warning: 1 damaged image left out:") for line in lines)


def test_check_looks_at_data_without_torch(pets: Path) -> None:
    (pets / "a.yaml").write_text(SPEC.replace("size: 8,", "size: 8, unreadable: skip,"))
    for more in ("", ", '--data'"):
        code = (
            "import sys; from nasir.cli.main import main; "
            f"assert main(['check', {str(pets / 'a.yaml')!r}{more}]) == 0; "
            "assert not {'torch', 'torchvision', 'sklearn'} & set(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


LONE = """\
nasir: 1
name: lone
input: {vector: 8}
network: [{linear: {out: 8}}, batch_norm, relu, {linear: {out: 4}}]
data: {dataset: synthetic, options: {features: 8, train: TRAIN, test: 40}, batch_size: SIZE, validation: 0}
device: cpu
phases: [{name: t, epochs: 1, optimizer: {sgd: {lr: 0.05}}MORE}]
"""


@pytest.mark.parametrize(("train", "size", "place"), [(129, 1, ":5:86: data.batch_size: "), (1, 8, ":5:7: data: ")])
def test_a_batch_of_one_in_front_of_a_norm_over_one_number_is_refused(
    train: int, size: int, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = LONE.replace("TRAIN", str(train)).replace("SIZE", str(size))
    code, _, err = check(tmp_path, text.replace("MORE", ""), capsys)
    assert code == 2 and f"{place}a batch of one example" in err and "'bn1' divides by it" in err
    assert main(["run", str(tmp_path / "a.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "'bn1' divides by it" in capsys.readouterr().err and not (tmp_path / "run").exists()
    code, _, err = check(tmp_path, text.replace("MORE", ", freeze: [bn1]"), capsys)
    assert code == 0, err
    done = nasir.run(load_spec(tmp_path / "a.yaml"), tmp_path / "frozen")
    assert done.metrics["test.accuracy"] >= 0


def test_norms_of_images_and_of_what_is_no_batch_train_with_one_example(tmp_path: Path) -> None:
    image = nasir.build(nasir.load_spec(SPEC))
    assert lone_norms(image) == ()
    for norm in ("{group_norm: {groups: 2}}", "layer_norm"):
        text = LONE.replace("batch_norm", norm).replace("TRAIN", "9").replace("SIZE", "1").replace("MORE", "")
        assert nasir.run(nasir.loads_spec(text), tmp_path / norm[:7].strip("{"))


def test_a_norm_that_comes_into_the_way_later_is_told(tmp_path: Path) -> None:
    text = LONE.replace("TRAIN", "9").replace("SIZE", "1").replace("MORE", ", freeze: [bn1]")
    text = text.replace("[bn1]}]", "[bn1]}, {name: u, epochs: 1, freeze: [linear1]}]")
    with pytest.raises(SpecError, match="'bn1' divides by it"):
        nasir.run(nasir.loads_spec(text), tmp_path / "surely")
    rule = "rules: [{every: 1 epochs, do: {prune-channels: {fraction: 0.25}}}]"
    text = text.replace("epochs: 1, optimizer", "epochs: 2, optimizer").replace("[bn1]", f"[bn1], {rule}")
    with pytest.raises(RunError, match="'bn1' divides by it"):
        nasir.run(nasir.loads_spec(text), tmp_path / "perhaps")
