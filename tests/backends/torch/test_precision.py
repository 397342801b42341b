"""float32 products: in full where a spec says fp32 and where a rewrite is measured, whatever the process is set to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import pyramid

from nasir import get_pass
from nasir.backends.torch.backend import TorchBackend
from nasir.backends.torch.device import names as devices
from nasir.backends.torch.device.precision import float32_products, products_of
from nasir.backends.torch.model import Model
from nasir.backends.torch.observe.latency import measure
from nasir.backends.torch.session import TorchSession
from nasir.errors import RunError
from nasir.running.decisions import EXACT
from nasir.testing.backend_contract import initial
from nasir.training.backend import Setup
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan


def switches() -> dict[str, str | None]:
    cuda, cudnn, onednn = torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn
    places = {"matmul": cuda.matmul, "conv": cudnn.conv, "rnn": cudnn.rnn, "onednn": onednn.matmul, "c": onednn.conv}
    precisions = {name: place.fp32_precision for name, place in places.items()}
    try:
        return {**precisions, "old": torch.get_float32_matmul_precision()}
    except RuntimeError:  # at odds with the newer ones
        return {**precisions, "old": None}


@pytest.fixture
def rounding() -> Iterator[None]:
    """A process that lets everything round, as many training scripts do in their first lines."""
    with float32_products("ieee"):  # puts back what the lines below change
        torch.set_float32_matmul_precision("medium")
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        yield


def opened(folder: Path, **more: Any) -> TorchSession:
    options = {"classes": 3, "size": 8, "channels": 3, "train": 64, "test": 24}
    data = DataPlan("synthetic", options, batch_size=16, validation=16)
    given = {"seed": 3, "device": "cpu", "precision": "fp32", "probe": 32, **more}
    session = TorchBackend().open(Setup(data, folder, **given))
    graph = pyramid((1, 1), 8, size=8, classes=3)
    session.build(graph, initial(graph))
    session.begin_phase(TrainPlan(OptimizerPlan("sgd", lr=0.05), precision="fp32"), 8, resumed=False)
    return session


@pytest.mark.parametrize("kind", ["ieee", "tf32"])
def test_switches_are_set_for_a_while_and_put_back(kind: Any, rounding: None) -> None:
    before = switches()
    assert before["matmul"] == before["conv"] == "tf32" and before["onednn"] == "bf16"
    with float32_products(kind):
        within = switches()
        assert within["matmul"] == within["conv"] == within["rnn"] == kind
        assert within["onednn"] == within["c"] == "ieee", "a CPU has no TF32"
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (kind == "tf32")
    assert switches() == before


def test_switches_of_both_kinds_at_odds_are_put_back_as_they_were(rounding: None) -> None:
    torch.backends.cudnn.conv.fp32_precision = "ieee"  # torch's older switch still says the opposite
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    before = switches()
    with float32_products("tf32"):
        assert switches()["conv"] == switches()["matmul"] == "tf32"
    assert switches() == before


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (lambda: torch.backends.cuda.matmul, "tf32"),
        (lambda: torch.backends, "tf32"),
        (lambda: torch.backends.mkldnn, "bf16"),
        (lambda: torch.backends.mkldnn.matmul, "bf16"),
        (lambda: torch.backends.cudnn.conv, "ieee"),
    ],
    ids=["matmul", "all", "onednn", "onednn matmul", "conv"],
)
def test_a_session_works_in_a_process_that_uses_torchs_newer_switches(place: Any, value: str, tmp_path: Path) -> None:
    own, untouched = place(), switches()
    before = own.fp32_precision
    own.fp32_precision = value
    try:
        switched = switches()
        session = opened(tmp_path)
        session.train(0, 0, None, lambda: False)
        session.close()
        assert switches() == switched
    finally:
        own.fp32_precision = before
    assert switches() == untouched, "what followed follows, what did not does not"
    assert torch.backends.cudnn.allow_tf32 in (True, False), "torch's older switches can be read again"


def test_a_switch_that_followed_another_goes_on_following() -> None:
    if torch.backends.cuda.matmul.fp32_precision != "none":
        pytest.skip("this process sets the precision of products")
    with float32_products("tf32"):
        pass
    torch.backends.fp32_precision = "tf32"
    try:
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
    finally:
        torch.backends.fp32_precision = "none"


def test_only_one_word_rounds() -> None:
    assert [products_of(word) for word in ("auto", "fp32", "tf32", "bf16")] == ["ieee", "ieee", "tf32", "ieee"]


@pytest.mark.parametrize(
    "options",
    [{"factor": 2.0, "symmetry": "none"}, {"factor": 3.0, "symmetry": "none"}, {"how": "paired", "units": 4}],
)
def test_exact_claims_hold_where_the_process_rounds(options: dict[str, Any], rounding: None, tmp_path: Path) -> None:
    """Emulated TF32: the switches are those of a device; every one must read `ieee` while logits are compared."""
    session = opened(tmp_path)
    session.train(0, 0, None, lambda: False)
    seen: list[dict[str, str]] = []
    forward = Model.forward

    def watched(model: Model, *inputs: torch.Tensor) -> Any:
        seen.append(switches())
        # what TF32 does on a device: factors lose all but 10 bits of their mantissa
        rounds = torch.backends.cudnn.conv.fp32_precision == "tf32"
        out = forward(model, *inputs)
        return out * (1 + 1e-3 * torch.rand_like(out)) if rounds else out

    Model.forward = watched  # type: ignore[method-assign]
    try:
        rewrite = get_pass("widen")(**options).attempt(session.model.graph, "network")
        effect = session.propose(rewrite)
    finally:
        Model.forward = forward  # type: ignore[method-assign]
    assert rewrite.preserves == "exact" and effect.delta_logits <= EXACT * max(1.0, effect.largest_logit)
    assert len(seen) == 2 and all(set(switch.values()) == {"ieee", "highest"} for switch in seen)
    session.close()


def test_a_session_of_true_fp32_trains_alike_in_a_process_that_rounds(tmp_path: Path) -> None:
    first = opened(tmp_path)
    wanted = first.train(0, 0, None, lambda: False).metrics
    with float32_products("ieee"):
        torch.set_float32_matmul_precision("medium")
        torch.backends.mkldnn.conv.fp32_precision = "bf16"
        second = opened(tmp_path)
        assert second.train(0, 0, None, lambda: False).metrics == wanted
        assert torch.get_float32_matmul_precision() == "medium" and switches()["onednn"] == "bf16"


def test_tf32_is_refused_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"precision: tf32 .* this run is on cpu; use fp32 or auto"):
        opened(tmp_path, precision="tf32")
    with pytest.raises(RunError, match="tf32"):
        measure(pyramid((1,), 4, size=8), device="cpu", precision="tf32")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "an older device")
    with pytest.raises(RunError, match=r"an older device has 7\.5"):
        devices.check_precision("tf32", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    devices.check_precision("tf32", torch.device("cuda"))
