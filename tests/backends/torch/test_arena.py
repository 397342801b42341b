"""Copies of many tensors in one block of memory, used again; the way through a device with a device that is not one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from gc import get_objects
from typing import Any

import pytest
import torch

from nasir.backends.torch.weights import arena as module
from nasir.backends.torch.weights.arena import ALIGNMENT, Arena


def tensors(seed: int = 0) -> list[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    weight = torch.randn(8, 3, 3, 3, generator=random)
    return [
        weight.to(memory_format=torch.channels_last),
        torch.tensor(3.5),
        torch.arange(5),
        torch.randn(7, generator=random, dtype=torch.float64),
        torch.empty(0, 4),
        weight.bfloat16()[:, 1],
        torch.tensor([True, False, True]),
    ]


def check(copies: list[torch.Tensor], originals: list[torch.Tensor]) -> None:
    for copy, original in zip(copies, originals, strict=True):
        assert copy.is_contiguous() and copy.dtype == original.dtype and torch.equal(copy, original)
        assert copy.data_ptr() % ALIGNMENT == 0 or not copy.numel()


def test_copies_are_whole_contiguous_and_apart() -> None:
    arena, originals = Arena(), tensors()
    copies, event = arena.copy(originals)
    assert event is None
    check(copies, originals)
    for tensor in originals:
        tensor.zero_()
    check(copies, tensors())
    assert len({copy.untyped_storage().data_ptr() for copy in copies}) == 1


def test_a_block_is_used_again_and_grows_with_room_to_spare() -> None:
    arena = Arena()
    first, _ = arena.copy(tensors())
    size = arena.size
    second, _ = arena.copy(tensors(1))
    assert arena.size == size and first[0].data_ptr() == second[0].data_ptr()
    check(second, tensors(1))
    kept = second[0].clone()
    more, _ = arena.copy([*tensors(2), torch.ones(size)])
    assert arena.size > 4 * size and torch.equal(second[0], kept), "copies in the old block stay"
    check(more[:-1], tensors(2))
    arena.reserve(size, pinned=False)
    assert arena.size > size


def test_the_old_block_goes_before_the_new_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    arena = Arena()
    arena.copy(tensors())
    place, held, memory = arena._block.data_ptr(), [], module._memory

    def watched(size: int, **where: Any) -> torch.Tensor:
        held.append(sum(type(thing) is torch.Tensor and thing.data_ptr() == place for thing in get_objects()))
        return memory(size, **where)

    monkeypatch.setattr(module, "_memory", watched)
    arena.reserve(10 * arena.size, pinned=False)
    assert held == [0]


class FakeStreams:
    """What CUDA streams do, at once; every tensor of more than one number lies on the device."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pins: bool = True) -> None:
        self.events: list[str] = []
        self.pins = pins
        empty = torch.empty

        def allocate(*size: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
            if pin_memory:
                self.events.append("pin")
                if not self.pins:
                    raise RuntimeError("CUDA error: out of memory")
            return empty(*size, **options)

        @contextmanager
        def stream(side: Any) -> Iterator[None]:
            yield

        monkeypatch.setattr(module, "_on_device", lambda tensor: tensor.numel() > 1)
        monkeypatch.setattr(torch, "empty", allocate)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "Event", lambda: self)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: self)
        monkeypatch.setattr(torch.cuda, "stream", stream)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, side: None)

    def wait_stream(self, other: object) -> None:
        self.events.append("wait")

    def record(self, side: object) -> None:
        self.events.append("record")


def test_tensors_of_a_device_go_there_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    originals = tensors()
    fake, arena = FakeStreams(monkeypatch), Arena()
    copies, event = arena.copy(originals)
    assert event is fake and fake.events == ["pin", "wait", "record"]
    check(copies, originals)
    arena.copy(tensors(1))
    assert fake.events.count("pin") == 1


@pytest.mark.parametrize("refusal", ["device", "host"])
def test_where_memory_is_short_copies_are_made_one_by_one(refusal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    originals = tensors()
    fake, arena = FakeStreams(monkeypatch, pins=refusal != "host"), Arena()
    if refusal == "device":
        allocate = torch.empty

        def full(*size: Any, device: Any = None, **options: Any) -> torch.Tensor:
            if device is not None:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return allocate(*size, **options)

        monkeypatch.setattr(torch, "empty", full)
    copies, event = arena.copy(originals)
    assert event is None and "record" not in fake.events
    check(copies, originals)
