"""Streamed images: the batches that memory would give, whatever the workers, the epoch's cut and the files' state."""

from __future__ import annotations

import multiprocessing
import os
import signal
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from grown import pyramid
from PIL import Image
from torchvision.transforms.v2 import functional as reference

from nasir.backends.torch.data import streaming
from nasir.backends.torch.data.batches import BatchSource, random_stream
from nasir.backends.torch.data.in_memory import DataSource, open_source
from nasir.backends.torch.data.rawdata import DataContext
from nasir.backends.torch.data.streaming import Job, StreamSource, draw_box
from nasir.backends.torch.session import TorchSession
from nasir.datasets import folder, split
from nasir.errors import DataError, RunError
from nasir.images.decode import View, fitted, pixels, resized_part
from nasir.spec import load_spec
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, ResizedCrop, TrainPlan
from nasir.transfer import Key, TransferPlan

CPU = torch.device("cpu")
CROPS = ("random_resized_crop", "hflip")


def _picture(number: int) -> Image.Image:
    """Smooth, and of a size of its own: JPEG keeps it nearly as it is."""
    height, width = 10 + number % 5, 9 + number % 7
    rows, columns = np.mgrid[0:height, 0:width]
    bands = [(rows * 9 + number * 5) % 256, (columns * 9 + number * 11) % 256, (rows + columns) * 5 % 256]
    return Image.fromarray(np.stack(bands, 2).astype(np.uint8))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """18 training and 6 test images in three classes."""
    monkeypatch.setenv("NASIR_CACHE", str(tmp_path / "cache"))
    for part, count in (("train", 6), ("test", 2)):
        for label, name in enumerate(("ant", "bee", "cat")):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in range(count):
                _picture(10 * label + number).save(tmp_path / "pets" / part / name / f"{number}.jpg")
    return tmp_path


def _open(root: Path, options: dict[str, Any] | None = None, last: bool = False, **plan: Any) -> BatchSource:
    chosen = {"path": "pets", "size": 8, "stream": True, "workers": 0, **(options or {})}
    made = DataPlan("image_folder", chosen, **{"batch_size": 4, "eval_batch_size": 5, "augment": CROPS, **plan})
    return open_source(made, DataContext(root), CPU, channels_last=last)


def _equal(first: Any, second: Any) -> bool:
    pairs = list(zip(first, second, strict=True))
    return all(torch.equal(x, x_too) and torch.equal(y, y_too) for (x, y), (x_too, y_too) in pairs)


def _differ(first: Any, second: Any) -> bool:
    return not torch.equal(torch.cat([x for x, _ in first]), torch.cat([x for x, _ in second]))


def test_streamed_batches_are_those_of_the_same_images_in_memory(tree: Path) -> None:
    for extra in ({}, {"resize": 9}, {"channels": 1}, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.2]}):
        plan: dict[str, Any] = {"augment": ({"pad_crop": {"pad": 2}}, "hflip"), "validation": 3, "subset": 0.8}
        kept, streamed = _open(tree, {**extra, "stream": False}, **plan), _open(tree, extra, **plan)
        assert isinstance(kept, DataSource) and isinstance(streamed, StreamSource)
        for fact in ("shape", "train_size", "validation_size", "steps_per_epoch", "class_names"):
            assert getattr(kept, fact) == getattr(streamed, fact)
        assert _equal(kept.batches(1), streamed.batches(1))
        assert _equal(kept.validation(), streamed.validation()) and _equal(kept.test(), streamed.test())
        assert _equal(kept.train_plain(), streamed.train_plain())
        assert torch.equal(kept.probe(7), streamed.probe(7)) and torch.equal(kept.probe(3), streamed.probe(3))
        assert _equal([kept.labelled(5)], [streamed.labelled(5)])


def test_a_test_fraction_is_the_same_streamed(tree: Path) -> None:
    options = {"path": "pets/train", "test_fraction": 0.5}
    streamed = _open(tree, options, augment=())
    assert streamed.train_size == 9
    assert _equal(streamed.test(), _open(tree, {**options, "stream": False}, augment=()).test())


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(tree: Path) -> None:
    source = _open(tree)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert _equal(source.batches(0), _open(tree).batches(0))
    assert torch.equal(state, torch.get_rng_state())
    assert _differ(source.batches(0), source.batches(1))
    assert _differ(source.batches(0), _open(tree, seed=1).batches(0))
    assert _differ(source.batches(0), _open(tree, augment=("hflip",)).batches(0))
    shown = torch.cat([y for _, y in source.batches(0)])
    assert torch.bincount(shown).tolist() == [6, 6, 6]


@pytest.mark.parametrize("stream", [True, False])
def test_other_images_have_another_fingerprint(tree: Path, stream: bool) -> None:
    before, again = (_open(tree, {"stream": stream}, augment=()).fingerprint() for _ in range(2))
    _picture(99).save(tree / "pets" / "train" / "ant" / "0.jpg")
    assert before == again != _open(tree, {"stream": stream}, augment=()).fingerprint()


def test_starting_in_the_middle_gives_the_same_batches(tree: Path) -> None:
    source = _open(tree, last=True)
    assert source.steps_per_epoch == 5
    assert _equal(list(source.batches(2))[3:], source.batches(2, start_step=3))
    assert next(source.batches(2))[0].is_contiguous(memory_format=torch.channels_last)


def test_workers_change_nothing_and_end_with_their_pass(tree: Path) -> None:
    alone, helped = _open(tree), _open(tree, {"workers": 2})
    assert _equal(alone.batches(3), helped.batches(3))
    assert _equal(alone.batches(3, start_step=2), helped.batches(3, start_step=2))
    assert _equal(alone.validation(), helped.validation()) and _equal(alone.test(), helped.test())
    assert not multiprocessing.active_children()
    started = helped.batches(0)
    next(started)
    assert len(multiprocessing.active_children()) == 2
    del started
    assert not multiprocessing.active_children()


def test_workers_outlive_a_signal_to_the_whole_job(tree: Path) -> None:
    source = _open(tree, {"workers": 1})
    batches = source.batches(0)
    seen = [next(batches)]
    [worker] = multiprocessing.active_children()
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        os.kill(worker.pid or 0, number)
    assert _equal([*seen, *batches], _open(tree).batches(0))
    assert not multiprocessing.active_children()


def test_a_lost_worker_is_an_error_with_a_remedy(tree: Path) -> None:
    batches = _open(tree, {"workers": 1}, batch_size=2).batches(0)
    next(batches)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid or 0, signal.SIGKILL)
    with pytest.raises(RunError, match=r"was lost .*workers: N") as caught:
        list(batches)
    assert caught.value.__cause__ is None and not multiprocessing.active_children()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_image_is_named(tree: Path, workers: int) -> None:
    whole = (tree / "pets/train/bee/3.jpg").read_bytes()
    (tree / "pets/train/bee/3.jpg").write_bytes(whole[: len(whole) // 2])
    known = {"mean": [0.5] * 3, "std": [0.2] * 3, "workers": workers}
    with pytest.raises(DataError, match=r"bee.3\.jpg is not a readable image \(.*\); remove or replace it$"):
        list(_open(tree, known).batches(0))
    assert not multiprocessing.active_children()
    with pytest.raises(DataError, match=r"bee.3\.jpg"):
        _open(tree)  # measures means


def test_auto_streams_above_its_limit(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 18 * 3 * 8 * 8
    for limit, streams in ((size - 1, True), (size, False)):
        monkeypatch.setattr(folder, "STREAM_ABOVE", limit)
        for chosen in ({"stream": "auto"}, {"stream": None}):
            assert isinstance(_open(tree, chosen, augment=()), StreamSource if streams else DataSource)


def test_means_are_measured_on_a_sample_unless_given(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def whole(source: BatchSource) -> torch.Tensor:
        return torch.cat([x for x, _ in source.train_plain()]).double()

    x = whole(_open(tree))
    assert x.mean((0, 2, 3)).abs().max() < 1e-5 and (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    monkeypatch.setattr(split, "MEASURED", 6)
    assert torch.equal(whole(_open(tree)), whole(_open(tree))) and not torch.equal(whole(_open(tree)), x)
    plain = whole(_open(tree, normalize=None))
    given = whole(_open(tree, {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.5]}))
    wanted = (plain - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.25, 0.5]).view(3, 1, 1)
    assert torch.allclose(given, wanted, atol=1e-5)
    assert float(plain.min()) >= 0 and float(plain.max()) <= 1


@pytest.mark.parametrize(
    ("options", "plan", "message"),
    [
        ({"stream": "yes"}, {}, "use auto, true or false"),
        ({"workers": -1}, {}, "number of processes"),
        ({"resize": 7}, {}, "no smaller"),
        ({"size": None, "resize": 9}, {}, "no smaller"),
        ({"size": None}, {"augment": ()}, "give `size:`"),
        ({"mean": [0.5] * 3}, {}, "both mean and std"),
        ({"mean": [0.5] * 3, "std": [0.0, 0.1, 0.1]}, {}, "both mean and std"),
        ({"mean": [0.5] * 3, "std": [0.1] * 3}, {"normalize": None}, "remove one of the two"),
        ({"pad_to": 12}, {}, "pad_to"),
        ({"stream": False}, {}, "`stream: true`"),
        ({}, {"augment": ({"random_resized_crop": {"size": 9}},)}, "give both one size"),
    ],
)
def test_what_cannot_be_streamed_is_a_data_error(
    tree: Path, options: dict[str, Any], plan: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _open(tree, options, **plan)


def test_pixels_are_those_of_torchvision() -> None:
    for number in range(12):
        image = _picture(number).resize((40 + number, 61 - 2 * number))
        view = View((16, 12), shorter=20)
        wanted = reference.center_crop(reference.resize(image, [20]), [16, 12])
        assert np.array_equal(pixels(fitted(image, view, "")), np.asarray(wanted))
        top, left, height, width = draw_box(random_stream(number), image.height, image.width, ResizedCrop())
        cropped = reference.resized_crop(image, top, left, height, width, [16, 12])
        assert np.array_equal(pixels(resized_part(image, (top, left, height, width), (16, 12))), np.asarray(cropped))


def test_random_parts_keep_to_their_bounds_and_lie_anywhere() -> None:
    crop = ResizedCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    boxes = np.array([draw_box(random_stream(number), 60, 90, crop) for number in range(300)])
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 60).all() and (left + width <= 90).all()
    shares = height * width / (60 * 90)
    assert shares.min() > 0.18 and shares.max() < 0.52 and abs(shares.mean() - 0.35) < 0.03
    ratios = width / height
    assert ratios.min() > 0.45 and ratios.max() < 2.2
    assert len(set(map(tuple, boxes.tolist()))) > 290
    # nothing fits a strip: its middle, as square as the bounds ask
    assert draw_box(random_stream(0), 4, 100, ResizedCrop(scale=(0.9, 1.0))) == (0, 47, 4, 5)


def test_a_job_is_all_that_an_image_needs(tree: Path) -> None:
    decoder = streaming.Decoder(View((8, 8)), ResizedCrop(), 0)
    path = str(tree / "pets/train/ant/0.jpg")
    first, again, other = (decoder[Job(path, 1, (0, 5, 2, place), (0, 0))][0] for place in (4, 4, 5))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert np.array_equal(decoder[Job(path, 1, (0, 5, 2, 4), (0, 0), True)][0], first[:, ::-1])


@pytest.mark.parametrize("name", ["basic4_imagenet", "plain4_imagenet", "bottleneck4"])
def test_the_imagenet_specs_would_run_on_such_a_tree(tree: Path, name: str) -> None:
    paths = [f"data.options.{key}={tree / 'pets' / part}" for key, part in (("path", "train"), ("test_path", "test"))]
    with as_file(files("nasir.specs")) as specs:
        plan = load_spec(specs / "autogrow" / f"{name}.yaml", [*paths, "data.validation=2"]).data.plan()
    source = open_source(plan, DataContext(tree), CPU)
    assert isinstance(source, StreamSource) and source.shape == (3, 224, 224) and source.plan.flips
    assert plan.resized_crop == ResizedCrop() and plan.batch_size == 256
    assert source.probe(2).shape == (2, 3, 224, 224)


def _session(root: Path, workers: int) -> TorchSession:
    options = {"path": "pets", "size": 8, "stream": True, "workers": workers}
    data = DataPlan("image_folder", options, batch_size=4, augment=CROPS, validation=3)
    session = TorchSession(Setup(data, root, seed=1, device="cpu", precision="fp32", probe=4))
    graph = pyramid((1, 1), 4, size=8, classes=3)
    slots = graph.infer.slots
    session.build(graph, TransferPlan({Key(n, name): s.init for n, own in slots.items() for name, s in own.items()}))
    session.begin_phase(TrainPlan(OptimizerPlan("sgd", lr=0.05), batch_size=4, precision="fp32"), 2, resumed=False)
    return session


def test_a_session_trains_two_epochs_and_goes_on_after_a_stop_bit_for_bit(tree: Path) -> None:
    whole, parted = _session(tree, 0), _session(tree, 1)
    asked = iter([False, True])
    for epoch in range(2):
        metrics = whole.train(epoch, epoch, None, lambda: False).metrics
        stretch = parted.train(epoch, epoch, None, lambda: next(asked, False))
        if epoch == 0:
            assert not stretch.finished and stretch.steps == 2 and not multiprocessing.active_children()
            stretch = parted.train(epoch, epoch, stretch, lambda: False)
        assert stretch.finished and stretch.metrics == metrics
        assert whole.evaluate("val") == parted.evaluate("val")
    assert whole.evaluate("test") == parted.evaluate("test")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(tensor, parted.model.state_dict()[name]), name
    assert not multiprocessing.active_children()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_cuda_equal_those_on_the_cpu(tree: Path) -> None:
    here = _open(tree, {"workers": 1})
    there = open_source(here.plan, DataContext(tree), torch.device("cuda"))
    for (x, y), (x_there, y_there) in zip(here.batches(1), there.batches(1), strict=True):
        assert torch.equal(x, x_there.cpu()) and torch.equal(y, y_there.cpu())
