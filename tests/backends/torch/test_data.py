"""Batches depend on (seed, epoch, step) alone; each image has its own crop and flip; splits keep class shares."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from nasir.backends.torch.data.batches import BatchSource
from nasir.backends.torch.data.in_memory import DataSource, open_source
from nasir.backends.torch.data.rawdata import DataContext, RawData
from nasir.errors import DataError
from nasir.training.plans import DataPlan

CPU = torch.device("cpu")
PADDED = {"pad_crop": {"pad": 3}}


def _source(channels_last: bool = False, options: dict[str, Any] | None = None, **plan: Any) -> DataSource:
    chosen = {"train": 100, "test": 20, "size": 6, "channels": 3, **(options or {})}
    made = DataPlan("synthetic", options=chosen, **{"batch_size": 16, **plan})
    return open_source(made, DataContext(Path(".")), CPU, channels_last=channels_last)


def _positions(count: int = 40, side: int = 8, **plan: Any) -> DataSource:
    """Every image holds its own number in all pixels, so batches show which images they are."""
    images = torch.arange(1, count + 1, dtype=torch.uint8)[:, None, None, None].expand(-1, 1, side, side).contiguous()
    labels = torch.arange(count) % 4
    raw = RawData(images, labels, images[:4], labels[:4], ("a", "b", "c", "d"))
    return DataSource(raw, DataPlan("numbers", normalize=None, **{"batch_size": 8, **plan}), CPU)


def _numbers(x: Tensor) -> list[int]:
    return [round(float(value) * 255) for value in x.amax(dim=(1, 2, 3))]


def test_an_epoch_shows_every_image_once_in_an_order_of_seed_and_epoch() -> None:
    first = [n for x, _ in _positions().batches(0) for n in _numbers(x)]
    assert sorted(first) == list(range(1, 41))
    assert first == [n for x, _ in _positions().batches(0) for n in _numbers(x)]
    assert first != [n for x, _ in _positions().batches(1) for n in _numbers(x)]
    assert first != [n for x, _ in _positions(seed=1).batches(0) for n in _numbers(x)]


def test_starting_in_the_middle_gives_the_same_batches() -> None:
    source = _source(augment=("pad_crop", "hflip"))
    whole, rest = list(source.batches(3)), list(source.batches(3, start_step=4))
    assert len(rest) == len(whole) - 4
    for (x, y), (x_again, y_again) in zip(whole[4:], rest, strict=True):
        assert torch.equal(x, x_again) and torch.equal(y, y_again)


def test_global_random_state_neither_moves_nor_matters() -> None:
    source = _source(augment=("pad_crop", "hflip"))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = next(source.batches(0))[0]
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, next(source.batches(0))[0])


def test_each_image_of_a_batch_has_its_own_crop_and_flip() -> None:
    ramp = torch.arange(1, 65, dtype=torch.uint8).view(1, 1, 8, 8).expand(64, 3, 8, 8).contiguous()
    labels = torch.zeros(64, dtype=torch.int64)
    plan = DataPlan("ramp", batch_size=64, augment=({"pad_crop": {"pad": 2}}, "hflip"), normalize=None)
    x, _ = next(DataSource(RawData(ramp, labels, ramp, labels, ("a",)), plan, CPU).batches(0))
    seen = {tuple(image.flatten().tolist()) for image in (x * 255).round()}
    assert len(seen) > 20  # of 2 * 25 possible ones, from 64 equal images
    padded = torch.nn.functional.pad(ramp[0].float(), (2, 2, 2, 2))
    crops = [padded[:, top : top + 8, left : left + 8] for top in range(5) for left in range(5)]
    possible = {tuple(image.flatten().tolist()) for crop in crops for image in (crop, crop.flip(2))}
    assert seen <= possible


def test_flips_hit_about_half_of_the_images() -> None:
    half = torch.zeros(400, 1, 2, 2, dtype=torch.uint8)
    half[..., 0] = 200
    labels = torch.zeros(400, dtype=torch.int64)
    plan = DataPlan("half", batch_size=400, augment=("hflip",))
    x, _ = next(DataSource(RawData(half, labels, half, labels, ("a",)), plan, CPU).batches(0))
    assert 150 < int((x[:, 0, 0, 1] > x[:, 0, 0, 0]).sum()) < 250


def test_normalisation_gives_each_channel_mean_zero_and_deviation_one() -> None:
    source = _source(validation=20)
    x = torch.cat([x for x, _ in source.train_plain()]).double()
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-5
    vectors = _source(options={"features": 5})
    assert torch.cat([x for x, _ in vectors.train_plain()]).mean(0).abs().max() < 1e-5
    assert vectors.shape == (5,)


def test_a_constant_channel_stays_finite() -> None:
    flat = torch.full((4, 1, 3, 3), 7, dtype=torch.uint8)
    labels = torch.zeros(4, dtype=torch.int64)
    source = DataSource(RawData(flat, labels, flat, labels, ("a",)), DataPlan("flat"), CPU)
    assert float(source.probe(4).abs().max()) < 1e-6


@pytest.mark.parametrize("validation", [20, 0.2])
def test_validation_is_stratified_seeded_and_apart_from_training(validation: float) -> None:
    source = _positions(100, validation=validation)
    held = [n for x, _ in source.validation() for n in _numbers(x)]
    trained = [n for x, _ in source.batches(0) for n in _numbers(x)]
    assert len(held) == source.validation_size == 20
    assert sorted(held + trained) == list(range(1, 101))
    labels = torch.cat([y for _, y in source.validation()])
    assert torch.bincount(labels).tolist() == [5] * 4
    again = [n for x, _ in _positions(100, validation=validation, seed=1).validation() for n in _numbers(x)]
    assert held != again


def test_subset_is_stratified_and_taken_after_validation() -> None:
    source = _positions(100, validation=20, subset=0.25)
    assert (source.train_size, source.validation_size) == (20, 20)
    labels = torch.cat([y for _, y in source.batches(0)])
    assert torch.bincount(labels).tolist() == [5] * 4
    whole = [n for x, _ in _positions(100, validation=20).validation() for n in _numbers(x)]
    assert whole == [n for x, _ in source.validation() for n in _numbers(x)]


def test_steps_of_an_epoch_count_the_last_batch_unless_dropped_or_single() -> None:
    sizes = {
        (40, 16, False): [16, 16, 8],
        (40, 16, True): [16, 16],
        (33, 16, False): [16, 16],
        (5, 16, True): [5],
    }
    for (count, size, drop), wanted in sizes.items():
        source = _positions(count, batch_size=size, drop_last=drop)
        assert [len(y) for _, y in source.batches(0)] == wanted
        assert source.steps_per_epoch == len(wanted)


def test_channels_last_changes_the_layout_only() -> None:
    plain, last = _source(augment=("pad_crop",)), _source(True, augment=("pad_crop",))
    x, y = next(plain.batches(0)), next(last.batches(0))
    assert torch.equal(x[0], y[0])
    assert x[0].is_contiguous() and y[0].is_contiguous(memory_format=torch.channels_last)


def test_test_data_is_placed_by_its_own_call_only() -> None:
    source = _source()
    list(source.batches(0))
    list(source.validation())
    assert source._test is None
    assert sum(len(y) for _, y in source.test()) == 20
    assert source._test is not None


def test_pad_to_puts_a_border_around_the_images() -> None:
    source = _source(options={"pad_to": 9}, normalize=None)
    assert source.shape == (3, 9, 9)
    x = source.probe(2)
    assert float(x[:, :, 0].abs().max()) == 0 and float(x[:, :, 1, 1:7].max()) > 0
    for side in (4, "9", True):
        with pytest.raises(DataError, match="pad_to"):
            _source(options={"pad_to": side})


def test_impossible_splits_and_augmentations_are_data_errors() -> None:
    with pytest.raises(DataError, match="validation takes 100 of 100"):
        _source(validation=100)
    with pytest.raises(DataError, match="cannot augment"):
        _source(options={"features": 5}, augment=("hflip",))


def test_probe_is_neither_shuffled_nor_augmented() -> None:
    source = _positions(augment=("pad_crop", "hflip"))
    assert _numbers(source.probe(5)) == [1, 2, 3, 4, 5]


def test_labelled_examples_are_spread_over_the_training_part_and_not_augmented() -> None:
    source = _positions(augment=("pad_crop", "hflip"))
    images, labels = source.labelled(4)
    assert _numbers(images) == [1 + n * source.train_size // 4 for n in range(4)]
    whole = torch.cat([y for _, y in source.train_plain()])
    assert torch.equal(labels, whole[[n * source.train_size // 4 for n in range(4)]])
    assert len(source.labelled(10**6)[0]) == source.train_size


def _images(kind: str) -> RawData:
    random = torch.Generator().manual_seed(0)
    shape = (50, 7) if kind == "vectors" else (50, 3 if kind == "colour" else 1, 6, 9)
    if kind == "floats":
        values = torch.randn(shape, generator=random)
    else:
        values = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    return RawData(values, torch.arange(50) % 4, values[:8], torch.arange(8) % 4, ("a", "b", "c", "d"))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize(
    ("kind", "augment"),
    [
        *product(["colour", "grey", "floats"], [(), ("hflip",), (PADDED,), (PADDED, "hflip")]),
        ("vectors", ()),
    ],
)
def test_fused_batches_are_the_same_bit_for_bit(kind: str, augment: tuple[Any, ...], channels_last: bool) -> None:
    plan = DataPlan("numbers", batch_size=16, augment=augment, validation=10, seed=3)
    plain, fused = (DataSource(_images(kind), plan, CPU, channels_last=channels_last, fused=f) for f in (None, True))
    assert not plain.fused
    assert fused.fingerprint() == plain.fingerprint() and fused.shape == plain.shape
    for name in ("train_plain", "validation", "test"):
        pairs = list(zip(getattr(plain, name)(), getattr(fused, name)(), strict=True))
        assert pairs and all(_same(first, second) for first, second in pairs), name
    for epoch, start in ((0, 0), (5, 1)):
        pairs = list(zip(plain.batches(epoch, start), fused.batches(epoch, start), strict=True))
        assert pairs and all(_same(first, second) for first, second in pairs)
    assert _same((plain.probe(5),), (fused.probe(5),))
    assert _same(plain.labelled(7), fused.labelled(7))


def _same(first: tuple[Tensor, ...], second: tuple[Tensor, ...]) -> bool:
    return all(_layout(x) == _layout(y) and torch.equal(x, y) for x, y in zip(first, second, strict=True))


def _layout(x: Tensor) -> tuple[Any, ...]:
    """Type, shape and order in memory; a side of length 1 has no place in an order."""
    return x.dtype, x.shape, [stride for stride, side in zip(x.stride(), x.shape, strict=True) if side > 1]


def test_batches_are_fused_where_operations_are_launched_and_take_few_of_them() -> None:
    plan = DataPlan("numbers", batch_size=16, augment=(PADDED, "hflip"))
    there = DataSource.__new__(DataSource)
    BatchSource.__init__(there, plan, torch.device("cuda"), ("a",))
    assert there.fused and not DataSource(_images("colour"), plan, CPU).fused
    for channels_last in (False, True):
        source = DataSource(_images("colour"), plan, CPU, channels_last=channels_last, fused=True)
        batches = source.batches(0)
        next(batches)
        with Operations() as counted:
            next(batches)
        assert counted.names == ["index", "mul", "add"]


class Operations(TorchDispatchMode):
    """Notes the operations that make new values; views and memory take no kernel."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__.removesuffix("_")
        if not func.is_view and name != "empty":
            self.names.append(name)
        return func(*args, **(kwargs or {}))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_batches_on_cuda_equal_those_on_the_cpu() -> None:
    raw = _source()
    plan = raw.plan
    there = open_source(plan, DataContext(Path(".")), torch.device("cuda"))
    for (x, y), (x_there, y_there) in zip(raw.batches(1), there.batches(1), strict=True):
        assert torch.equal(x, x_there.cpu()) and torch.equal(y, y_there.cpu())
