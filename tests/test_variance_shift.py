"""Dropout before norms: which is found, how much it shifts the variance, and how specs are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nasir.analysis.variance_shift import told, variance_shifts
from nasir.backends.torch import Model
from nasir.cli.main import main
from nasir.ir import Draft, Graph
from nasir.passes.insert_router import InsertRouter
from nasir.spec import loads_spec
from nasir.spec.network import build
from tests.grown import pyramid

WIDTH = 256
NORM, RELU, GELU, LINEAR = ("batch_norm", {}), ("relu", {}), ("gelu", {}), ("linear", {"out": WIDTH})
Steps = list[tuple[str, dict[str, Any]]]


def chain(steps: Steps, shape: tuple[int, ...] = (WIDTH,)) -> Graph:
    """Nodes one behind another, n0, n1, ..."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=list(shape))
    for number, (op, attrs) in enumerate(steps):
        x = draft.add(op, x, f"n{number}", **attrs)
    draft.output(x)
    return draft.commit()


def drop(p: float, op: str = "dropout") -> tuple[str, dict[str, Any]]:
    return op, {"p": p}


def measured(graph: Graph, norm: str, seed: int) -> float:
    """The ratio of a norm on standard normal inputs, for weights that are drawn."""
    torch.manual_seed(seed)
    model = Model.from_graph(graph, seed)
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=WIDTH**-0.5)
            nn.init.zeros_(module.bias)
    return model.variance_shifts(torch.randn(4096, WIDTH))[norm]


@pytest.mark.parametrize(
    "steps",
    [
        [NORM, drop(0.5), NORM],
        [NORM, RELU, drop(0.5), LINEAR, NORM],
        [NORM, RELU, drop(0.2), LINEAR, NORM],
        [NORM, GELU, drop(0.5), LINEAR, NORM],
        [NORM, RELU, LINEAR, drop(0.5), RELU, NORM],
        [NORM, RELU, drop(0.5), LINEAR, RELU, NORM],
        [NORM, RELU, LINEAR, drop(0.3), GELU, LINEAR, NORM],
        [NORM, RELU, drop(0.2, "stochastic_depth"), LINEAR, NORM],
        [drop(0.5), LINEAR, NORM],
    ],
    ids=lambda steps: "-".join(op for op, _ in steps),
)
def test_the_ratio_is_that_of_random_weights(steps: Steps) -> None:
    graph = chain(steps)
    [shift] = variance_shifts(graph)
    assert graph.nodes[shift.norm].label == f"n{len(steps) - 1}"
    assert shift.least == (steps[0] != NORM)
    assert shift.ratio is not None
    ratios = [measured(graph, f"n{len(steps) - 1}", seed) for seed in range(3)]
    assert sum(ratios) / 3 == pytest.approx(shift.ratio, rel=0.04)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_behind_a_relu_it_is_the_second_moment_over_the_variance(p: float) -> None:
    """1 + p / (1 - p) * E[x ** 2] / Var(x), where x is max(z, 0) of a standard normal z."""
    [shift] = variance_shifts(chain([NORM, RELU, drop(p), LINEAR, NORM]))
    moment, mean = 0.5, (2 * torch.pi) ** -0.5
    assert shift.ratio == pytest.approx(1 + p / (1 - p) * moment / (moment - mean**2), rel=1e-3)


def test_what_lies_between_may_have_no_closed_form() -> None:
    graph = chain([NORM, drop(0.5), ("max_pool", {"kernel": 2}), NORM], (3, 8, 8))
    [shift] = variance_shifts(graph)
    assert shift.ratio is None and "how much has no closed form" in told(graph, [shift])


@pytest.mark.parametrize(
    "steps",
    [
        [NORM, RELU, drop(0.5), LINEAR],
        [drop(0.0), LINEAR, NORM],
        [drop(0.5), LINEAR, ("layer_norm", {})],
        [drop(0.5), LINEAR, ("batch_norm", {"statistics": False})],
    ],
)
def test_without_a_norm_of_running_statistics_nothing_is_shifted(steps: Steps) -> None:
    assert not [*variance_shifts(chain(steps))]


def test_frozen_dropout_drops_nothing() -> None:
    graph = chain([drop(0.5), NORM])
    draft = graph.draft()
    draft.freeze("n0")
    assert not [*variance_shifts(draft.commit())]


def test_ways_end_at_sums() -> None:
    """Kim's position is none of those that are told, although norms lie behind the sum."""
    graph = pyramid((2, 2), 4, block="preact_basic", options="dropout: 0.5", size=8)
    assert not [*variance_shifts(graph)]


def test_measuring_leaves_the_network_as_it_was() -> None:
    model = Model.from_graph(pyramid((1, 1), 4, block="preact_basic", options="dropout: 0.5", size=8)).train()
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(16, 3, 8, 8)
    torch.manual_seed(7)
    first = torch.rand(1)
    torch.manual_seed(7)
    ratios = model.variance_shifts(x)
    assert torch.equal(torch.rand(1), first), "random generators go on as if nothing had been drawn"
    assert all(module.training for module in model.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    # the norms of the first block lie before any dropout, those of the second behind a sum
    assert ratios["s1.0.bn1"] == ratios["s1.0.bn2"] == 1.0 < ratios["s2.0.bn1"] < 1.3


def test_routed_networks_are_measured_too() -> None:
    model = Model.from_graph(pyramid((1, 3), 4, block="preact_basic", options="dropout: 0.5", size=8))
    x = torch.randn(16, 3, 8, 8)
    torch.manual_seed(0)
    before = model.variance_shifts(x)
    model.apply(InsertRouter(), "s2")
    torch.manual_seed(0)
    after = model.variance_shifts(x)
    assert after == pytest.approx(before), "at first every sample runs through all blocks"


def test_what_is_frozen_is_measured_as_it_trains() -> None:
    draft = chain([NORM, drop(0.5), NORM]).draft()
    draft.freeze("n1")
    assert Model.from_graph(draft.commit()).variance_shifts(torch.randn(8, WIDTH)) == {"n0": 1.0, "n2": 1.0}


SPEC = """\
nasir: 1
name: shifted
input: {image: [1, 8, 8]}
blocks:
  shifted: {branch: [{conv_bn_relu: {out: out}}, {dropout: {p: 0.3}}, {conv_bn: {out: out}}], then: [relu]}
network:
  - conv_bn_relu: {out: 8, kernel: 3}
  - dropout: {p: 0.5}
  - conv_bn_relu: {out: 8, kernel: 3}
  - stage: {name: s1, block: shifted, depth: 3}
  - stage: {name: s2, block: preact_basic, out: 16, depth: 2, stride: 2, dropout: 0.4}
  - classifier: {classes: 10, dropout: 0.2}
data: {dataset: digits, batch_size: 64}
phases: [{name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}]
"""


def test_a_spec_is_told_each_step_once_with_its_place() -> None:
    notes: list[str] = []
    build(loads_spec(SPEC), notes.append)
    assert notes == [
        "<spec>:8:14: network.1.dropout: dropout 'dropout1' (p 0.5) lies before the norm 'bn2': in training what that "
        "normalizes varies 2.47 times as much as in evaluation (computed for random weights); drop behind the last "
        "norm; in residual branches `place-dropout` with `move: true` does so",
        "<spec>:10:12: network.3.stage: dropout 's1.0.dropout1' (p 0.3) lies before the norm 's1.0.bn2': in training "
        "what that normalizes varies 1.63 times as much as in evaluation (computed for random weights); 2 more like "
        "it; drop behind the last norm; in residual branches `place-dropout` with `move: true` does so",
    ]


def test_check_and_show_tell_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "shifted.yaml"
    path.write_text(SPEC)
    assert main(["check", str(path)]) == 0
    told_by_check = capsys.readouterr().err
    assert f"note: {path}:8:14: network.1.dropout:" in told_by_check
    assert main(["show", str(path)]) == 0
    assert "note: dropout 'dropout1' (p 0.5) lies before the norm 'bn2'" in capsys.readouterr().err


def test_check_tells_it_of_imported_modules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef make(classes):\n"
        "    first = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)]\n"
        "    second = [nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten()]\n"
        "    return nn.Sequential(*first, *second, nn.Linear(8, classes))\n"
    )
    network = "network: {from: module, module: net.py:make, args: {classes: 10}}\n"
    head, _, rest = SPEC.partition("blocks:")
    path = tmp_path / "module.yaml"
    path.write_text(head + network + rest[rest.index("data:") :])
    assert main(["check", str(path), "--import"]) == 0
    told_by_check = capsys.readouterr().err
    assert f"{path}:4:10: network: dropout '3' (p 0.5) lies before the norm '5'" in told_by_check
    assert "varies 2.47 times" in told_by_check
