"""Torchvision's ResNets: their state_dicts load with no key map, and the logits agree; published weights by name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision

from nasir.backends.torch import Model
from nasir.backends.torch.session import TorchSession
from nasir.backends.torch.weights.pretrained import load_pretrained
from nasir.errors import DataError, RunError
from nasir.ir import Graph
from nasir.running.engine import setup_of
from nasir.spec import Spec, loads_spec
from nasir.spec.network import build, initial_plan
from nasir.training.backend import Setup

COUNTS = {  # parameters and multiply-accumulates at 224
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "resnet152": (60_192_808, 11_513_626_624),
    "resnext50_32x4d": (25_028_904, None),
    "wide_resnet50_2": (68_883_240, None),
}


def spec(model: str, classes: int | None = None, size: int = 64, weights: str | None = None, channels: int = 3) -> Spec:
    more = (f", classes: {classes}" if classes else "") + (f", weights: {weights}" if weights else "")
    return loads_spec(
        f"nasir: 1\nname: imported\ndevice: cpu\ninput: {{image: [{channels}, {size}, {size}]}}\n"
        f"network: {{from: torchvision, model: {model}{more}}}\n"
        f"data: {{dataset: synthetic, options: {{classes: {classes or 1000}, size: {size}, channels: {channels}, "
        "train: 8, test: 4}, batch_size: 4}\nphases:\n  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
    )


def graph(model: str, **more: Any) -> Graph:
    return build(spec(model, **more))


def theirs(model: str, seed: int = 0) -> torch.nn.Module:
    """Torchvision's network with random statistics and affine norms."""
    torch.manual_seed(seed)
    made: torch.nn.Module = torchvision.models.get_model(model, weights=None)
    for module in made.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
            torch.nn.init.uniform_(module.weight, 0.5, 1.0)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
    return made.eval()


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_state_dict_loads_as_it_is_and_the_logits_agree(name: str) -> None:
    reference = theirs(name)
    model = Model.from_graph(graph(name))
    model.load_state_dict(reference.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        wanted, logits = reference(x), model.eval()(x)
    scale = float(wanted.abs().max())
    assert float((logits - wanted).abs().max()) <= 1e-5 * max(1.0, scale)
    assert scale > 0.1


@pytest.mark.parametrize("name", COUNTS)
def test_names_shapes_and_counts(name: str) -> None:
    made = graph(name, size=224)
    with torch.device("meta"):
        reference = torchvision.models.get_model(name, weights=None).state_dict()
    wanted = {key: tuple(tensor.shape) for key, tensor in reference.items()}
    labels = {node_id: node.label for node_id, node in made.nodes.items()}
    shapes = {f"{labels[n]}.{slot}": s.shape for n, slots in made.infer.slots.items() for slot, s in slots.items()}
    assert shapes == wanted
    params, macs = COUNTS[name]
    assert made.cost().params == params
    assert macs is None or made.cost().macs == macs


def test_their_training_forward_moves_the_same_statistics() -> None:
    reference = theirs("resnet18").train()
    model = Model.from_graph(graph("resnet18"))
    model.load_state_dict(reference.state_dict())
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        reference(x), model.train()(x)
    state = model.state_dict()
    for name, tensor in reference.state_dict().items():
        assert torch.allclose(state[name], tensor, rtol=1e-4, atol=1e-5), name


# -- published weights


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Torchvision's ResNet-18 weights, without a download; like the real file, it has no batch counters."""
    state = {k: t for k, t in theirs("resnet18", 7).state_dict().items() if not k.endswith("num_batches_tracked")}
    asked = []

    def get_state_dict(self: Any, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        asked.append(self.name)
        assert kwargs == {"progress": False, "check_hash": True, "weights_only": True}
        return state

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", get_state_dict)
    return state


def session(made: Spec) -> TorchSession:
    session = TorchSession(setup_of(made, Path(".")))
    network = build(made)
    session.build(network, initial_plan(network, made))
    return session


def test_the_setup_names_the_weights_of_an_imported_network() -> None:
    assert setup_of(spec("resnet18", weights="IMAGENET1K_V1"), Path(".")).weights == ("resnet18", "IMAGENET1K_V1")
    assert setup_of(spec("resnet18"), Path(".")).weights is None


def test_a_new_network_starts_from_published_weights(published: dict[str, torch.Tensor]) -> None:
    state = session(spec("resnet18", weights="IMAGENET1K_V1")).model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in published.items())
    assert int(state["bn1.num_batches_tracked"]) == 0


def test_the_classifier_stays_fresh_for_another_number_of_classes(published: dict[str, torch.Tensor]) -> None:
    made = spec("resnet18", classes=5, weights="IMAGENET1K_V1")
    fresh = session(spec("resnet18", classes=5)).model.state_dict()
    state = session(made).model.state_dict()
    assert state["fc.weight"].shape == (5, 512)
    assert torch.equal(state["fc.weight"], fresh["fc.weight"]) and torch.equal(state["fc.bias"], fresh["fc.bias"])
    rest = [name for name in published if not name.startswith("fc.")]
    assert all(torch.equal(state[name], published[name]) for name in rest)
    model = Model.from_graph(build(made))
    left = load_pretrained(model, "resnet18", "IMAGENET1K_V1")
    assert {name for name in left if not name.endswith("num_batches_tracked")} == {"fc.weight", "fc.bias"}


def test_a_checkpoint_is_not_overwritten_by_published_weights(
    published: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    made = spec("resnet18", classes=5, weights="IMAGENET1K_V1")
    first = session(made)
    with torch.no_grad():
        first.model.conv1.weight.fill_(0.25)
    first.save(tmp_path, 1, {"ordinal": 0}, 2)
    first.close()
    second = TorchSession(setup_of(made, Path(".")))
    saved = second.newest(tmp_path)
    assert saved is not None
    second.load(saved, build(made))
    assert bool((second.model.conv1.weight == 0.25).all())
    second.close()


def test_unknown_weights_and_models_without_weights_are_named() -> None:
    model = Model.from_graph(graph("resnet18"))
    with pytest.raises(DataError, match=r"^V9 of resnet18: no such weights; use IMAGENET1K_V1, or null"):
        load_pretrained(model, "resnet18", "V9")
    with pytest.raises(DataError, match="no weights for 'resnet18_cifar'; remove `weights:`"):
        load_pretrained(model, "resnet18_cifar", "IMAGENET1K_V1")


@pytest.mark.parametrize("cause", [URLError("no route"), RuntimeError('invalid hash value (expected "f37072fd")')])
def test_a_failed_download_says_what_to_do(cause: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any, *args: Any, **kwargs: Any) -> None:
        raise cause

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(RunError, match=r"cannot be downloaded .*put the file of https://.*or remove `weights:`"):
        session(spec("resnet18", weights="IMAGENET1K_V1"))


class Harmful:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("harm"),)


def saved(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "is damaged"),
        (b"no weights at all", "is damaged"),
        (saved({"conv1.weight": torch.ones(2)})[:-200], "is damaged"),
        (pickle.dumps(Harmful()), "is damaged"),
        (saved(Harmful()), "is damaged"),
        (saved([1, 2]), "holds no weights by name"),
        (saved({"conv1.weight": "text"}), "holds no weights by name"),
    ],
)
def test_a_damaged_file_of_weights_is_named_and_runs_no_code(
    data: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    file = tmp_path / "checkpoints" / Path(torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url).name
    file.write_bytes(data)
    with pytest.raises(DataError, match=f"^IMAGENET1K_V1 of resnet18: {file} {told}"):
        load_pretrained(Model.from_graph(graph("resnet18")), "resnet18", "IMAGENET1K_V1")
    assert not Path("harm").exists()


def test_weights_that_do_not_fit_are_refused(published: dict[str, torch.Tensor]) -> None:
    with pytest.raises(DataError, match=r"conv1.weight has shape \(64, 3, 7, 7\) there and \(64, 1, 7, 7\) here"):
        load_pretrained(Model.from_graph(graph("resnet18", channels=1)), "resnet18", "IMAGENET1K_V1")
    with pytest.raises(DataError, match=r"only here are layer1.2.conv1.weight, .* and \d+ more; use the weights"):
        load_pretrained(Model.from_graph(graph("resnet34")), "resnet18", "IMAGENET1K_V1")


def test_a_setup_needs_no_weights() -> None:
    assert Setup.__dataclass_fields__["weights"].default is None
