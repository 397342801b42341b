"""Devices by name, the current device and torch's switches while a session works."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from small_runs import SPEC, write_spec

import nasir.api
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.device import names as devices
from nasir.backends.torch.device.names import choose_device, computes_bf16
from nasir.backends.torch.device.switches import Switches
from nasir.backends.torch.session import TorchSession
from nasir.errors import RunError, UsageError


class FakeCuda:
    """Two devices as far as their names go; the current one is kept here."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 2) -> None:
        self.current = 0
        self.asked: list[int] = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "device", self.device)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: self.current)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", self.bf16)

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, self.current if device.index is None else device.index
        try:
            yield
        finally:
            self.current = before

    def bf16(self, including_emulation: bool = True) -> bool:
        self.asked.append(self.current)
        return self.current == 1


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    return FakeCuda(monkeypatch)


def test_a_device_with_a_number_that_is_not_there_is_refused_with_those_that_are(cuda: FakeCuda) -> None:
    assert choose_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(RunError, match=r"there is no cuda:7; torch sees 2 CUDA devices, cuda:0 to cuda:1"):
        choose_device("cuda:7")
    with pytest.raises(RunError, match=r"no cuda:2;"):
        choose_device("cuda:2")
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda:0")
    with torch.cuda.device(torch.device("cuda:1")):
        assert choose_device("auto") == torch.device("cuda:1"), "it keeps the one that is current now"
    assert choose_device("cpu") == torch.device("cpu")


def test_one_device_is_told_in_the_singular(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeCuda(monkeypatch, count=1)
    with pytest.raises(RunError, match=r"torch sees 1 CUDA device, cuda:0$"):
        choose_device("cuda:7")


@pytest.mark.parametrize(
    "name", ["gpu", "cuda:", "cuda:x", "cuda:-1", "mps", "", "cuda:07", "cuda:\u0663", "cuda:99999999999"]
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="is not one of auto, cpu, cuda and cuda:N"):
        choose_device(name)


def test_the_device_itself_is_asked_whether_it_computes_bf16(cuda: FakeCuda) -> None:
    assert computes_bf16(torch.device("cuda:1")) and not computes_bf16(torch.device("cuda:0"))
    assert cuda.asked == [1, 0] and cuda.current == 0


def test_while_a_session_works_its_device_is_the_current_one(cuda: FakeCuda) -> None:
    """What names no device (pinned memory, a stream) would otherwise open a context on device 0."""
    switches = Switches(torch.device("cuda:1"), False, "ieee")
    before = torch.backends.cudnn.benchmark
    with switches.held():
        assert cuda.current == 1 and torch.backends.cudnn.benchmark
    assert cuda.current == 0 and torch.backends.cudnn.benchmark == before


def test_switches_come_back_after_an_error_too() -> None:
    before = torch.are_deterministic_algorithms_enabled()
    strict = Switches(torch.device("cpu"), True, "ieee")
    with pytest.raises(RuntimeError, match="on purpose"), strict.held():
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("on purpose")
    assert torch.are_deterministic_algorithms_enabled() is before


@pytest.mark.parametrize("strict", [True, False])
def test_a_switch_of_torchs_compiler_that_goes_with_them_comes_back(strict: bool) -> None:
    import torch._inductor.config as inductor

    before = inductor.deterministic
    inductor.deterministic = True
    try:
        with Switches(torch.device("cpu"), strict, "ieee").held():
            pass
        assert inductor.deterministic
    finally:
        inductor.deterministic = before


def test_device_of_a_model_without_weights() -> None:
    assert devices.device_of(torch.nn.ReLU()) == torch.device("cpu")


def test_a_device_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RunError, match=r"device: cuda needs a CUDA device.*use `device: auto` or `cpu`"):
        choose_device("cuda")
    assert choose_device("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TorchBackend().cuda_devices() == 0  # a driver that torch cannot use
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert TorchBackend().cuda_devices() == 2


@pytest.mark.parametrize(
    ("multiple", "option", "told"),
    [(8, "", True), (8, ", multiple_of: 12", True), (8, ", multiple_of: 16", False), (1, "", False)],
)
def test_widths_that_miss_the_tensor_cores_are_remarked_upon(
    multiple: int, option: str, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TorchSession, "preferred_multiple", lambda session: multiple)
    rule = f"do: {{prune-channels: {{fraction: 0.5{option}}}}}"
    spec = write_spec(tmp_path, SPEC.replace("do: {insert-block: {init: gaussian}}", rule).replace("at_most: 3", ""))
    spec.write_text(spec.read_text().replace("until: all_frozen", "epochs: 1"))
    heard: list[str] = []
    nasir.api.run(spec, tmp_path / "run", notice=heard.append)
    remarks = [text for text in heard if "consider `multiple_of: 8`" in text]
    assert bool(remarks) is told
    if told:
        assert re.search(r"tiny\.yaml:\d+:\d+: prune-channels has multiple_of (1|12);", remarks[0])
