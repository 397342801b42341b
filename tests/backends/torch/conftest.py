"""Fixtures of the torch backend's tests."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(params=["plain", "fused"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run a test with torch's default optimizers, and again with the fused ones, which CUDA devices take."""
    if request.param == "fused":
        for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW):
            monkeypatch.setitem(kind.__init__.__kwdefaults__, "fused", True)
        assert torch.optim.SGD([torch.zeros(1)]).param_groups[0]["fused"]
    return str(request.param)
