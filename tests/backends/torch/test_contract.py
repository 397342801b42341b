"""The torch backend keeps the contract that any backend owes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.optimizers import groups as optim
from nasir.testing import BackendContract
from nasir.training.backend import Setup


class TestTorchBackend(BackendContract):
    make = staticmethod(TorchBackend)


class _Again(BackendContract):
    """The contract with sessions that are set up otherwise."""

    make = staticmethod(TorchBackend)
    test_networks_and_the_device_can_be_timed = None  # type: ignore[assignment]  # there are no sessions in it


class TestTorchBackendContiguous(_Again):
    def setup(self, folder: Path) -> Setup:
        return replace(super().setup(folder), channels_last=False)


class TestTorchBackendFused(_Again):
    """With the optimizer kernels that are the default on CUDA devices."""

    @pytest.fixture(autouse=True)
    def fused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(optim, "fuses", lambda parameters: True)
