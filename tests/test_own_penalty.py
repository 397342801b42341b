"""A penalty in a plugin file: its value and gradient, a closed form, units that die under it, and what is refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import small_resnet
from small_runs import SPEC, write_spec

import nasir
from nasir.backends.torch import Model
from nasir.backends.torch.penalties.regularize import Penalties, alive, alive_cost
from nasir.errors import NasirError, RunError, SpecError, UsageError
from nasir.journal.directory import RunDirectory
from nasir.records import EpochRecord
from nasir.registry import penalties
from nasir.training import Penalty, PenaltyPlan, WeightPenalty

CPU = torch.device("cpu")
RULES = SPEC[SPEC.index("    rules:") : SPEC.index("  - name: finetune")]

LOGCOSH = '''\
"""A loss term: its options, and its value for the weights that it acts on."""

from dataclasses import dataclass

from nasir.registry import penalties
from nasir.training import WeightPenalty


@penalties.register("own-logcosh")
@dataclass(frozen=True)
class LogCosh(WeightPenalty):
    """log(cosh w): like w ** 2 / 2 near zero, like |w| far from it."""

    def value(self, weights):
        return sum(weight.cosh().log().sum() for weight in weights)
'''


@penalties.register("own-cubic")
@dataclass(frozen=True)
class Cubic(WeightPenalty):
    """Sum of |w| ** 3, by autograd."""

    def value(self, weights: Any) -> Any:
        return sum(weight.abs().pow(3).sum() for weight in weights)


@penalties.register("own-cubic-closed")
@dataclass(frozen=True)
class ClosedCubic(Cubic):
    """The same in closed form."""

    def gradient(self, weights: Any) -> Any:
        return [3 * weight.abs() * weight for weight in weights]


class HalfTerm:
    """Half of the units of each space are alive."""

    def __init__(self, graph: Any, penalty: Any, device: torch.device) -> None:
        self.spaces = [space for space in graph.infer.spaces if space.resizable]

    def add_gradients(self, fetch: Any) -> None:
        return None

    def alive(self, fetch: Any) -> dict[str, Any]:
        return {space.name: np.arange(space.size) < space.size / 2 for space in self.spaces}


@penalties.register("own-half")
@dataclass(frozen=True)
class Half(Penalty):
    """Half of the units are dead."""

    term = HalfTerm
    selects = True


def gradients(kind: str, **options: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model = Model.from_graph(small_resnet(), dtype=torch.float64)
    value = Penalties(model.graph, [PenaltyPlan(kind, 0.1, **options)], CPU).add_gradients(model)
    return float(value), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("on", ["kernels", "all", ("s1.0", "fc")])
def test_value_and_gradient_are_those_of_the_formula(on: Any) -> None:
    model = Model.from_graph(small_resnet(), dtype=torch.float64)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    value, by_name = gradients("own-cubic", on=on)
    assert by_name and value == pytest.approx(0.1 * float(sum(weights[name].abs().pow(3).sum() for name in by_name)))
    for name, gradient in by_name.items():
        assert torch.allclose(gradient, 0.3 * weights[name].abs() * weights[name], rtol=1e-12, atol=0), name


def test_a_closed_form_gives_the_same() -> None:
    value, by_name = gradients("own-cubic")
    closed_value, closed = gradients("own-cubic-closed")
    assert closed_value == value and closed.keys() == by_name.keys()
    assert all(torch.allclose(closed[name], by_name[name], rtol=1e-12, atol=0) for name in by_name)


def test_what_is_frozen_counts_and_gets_no_gradient() -> None:
    model = Model.from_graph(small_resnet(), dtype=torch.float64)
    model.get_parameter("conv1.weight").requires_grad_(False)
    value = Penalties(model.graph, [PenaltyPlan("own-cubic", 0.1)], CPU).add_gradients(model)
    assert float(value) == pytest.approx(gradients("own-cubic")[0])
    assert model.get_parameter("conv1.weight").grad is None and model.get_parameter("fc.weight").grad is not None


def test_units_may_die_under_a_term_of_ones_own() -> None:
    model = Model.from_graph(small_resnet())
    plan = PenaltyPlan("own-half", 1.0)
    units = alive(model, plan)
    cost = alive_cost(model, [plan])
    assert cost is not None and cost["channels"] == sum(int(living.sum()) for living in units.values())
    assert 0 < cost["macs"] < model.graph.cost().macs and 0 < cost["params"] < model.graph.cost().params


def bad(name: str, base: type = WeightPenalty, **members: Any) -> str:
    if name not in penalties.names():
        penalties.register(name)(dataclass(frozen=True)(type("Bad", (base,), {"__module__": name, **members})))
    return name


@pytest.mark.parametrize(
    ("name", "members", "told"),
    [
        ("bad-shape", {"value": lambda self, weights: weights[0]}, r"`value` gave a tensor of shape \(4, 3, 3, 3\)"),
        ("bad-type", {"value": lambda self, weights: 3.0}, r"`value` gave 3.0; it gives a tensor of one number"),
        ("bad-graph", {"value": lambda self, w: w[0].detach().sum()}, "does not depend on the weights"),
        (
            "bad-gradient",
            {"value": lambda self, weights: weights[0].sum(), "gradient": lambda self, weights: weights[:1]},
            "`gradient` gave 1 tensors",
        ),
        ("bad-value", {"value": lambda self, weights: {}[0]}, "raised KeyError: 0; mend its `value`"),
        (
            "bad-closed",
            {"value": lambda self, weights: weights[0].sum(), "gradient": lambda self, weights: {}[0]},
            "raised KeyError: 0; mend its `gradient`",
        ),
        ("bad-term", {"term": "nowhere.to.be.found:Term"}, "raised ModuleNotFoundError: .*; its `term` is made of"),
    ],
)
def test_what_a_term_gives_is_checked(name: str, members: dict[str, Any], told: str) -> None:
    model = Model.from_graph(small_resnet())
    plan = PenaltyPlan(bad(name, **members), 1.0)
    with pytest.raises(NasirError, match=f"penalty {name}(:| ).*{told}"):
        Penalties(model.graph, [plan], CPU).add_gradients(model)


def test_a_definition_that_computes_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(penalties, "_objects", dict(penalties._objects))  # what is registered here ends with the test
    with pytest.raises(UsageError, match=r"penalty 'bad-empty'.*has neither a `value` nor a `term`"):
        PenaltyPlan(bad("bad-empty"), 1.0)
    with pytest.raises(UsageError, match=r"penalty 'bad-select'.*selects units, but has no `term`"):
        PenaltyPlan(bad("bad-select", selects=True, value=lambda self, weights: weights[0].sum()), 1.0)
    with pytest.raises(RunError, match=r"l1: units do not die under it; use one of .*group-lasso"):
        alive(Model.from_graph(small_resnet()), PenaltyPlan("l1", 1.0))


def test_a_run_trains_with_a_term_of_a_plugin_and_journals_it(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(LOGCOSH)
    terms = "    regularize: [{own-logcosh: {strength: 1.0e-3, on: [s1]}}]\n"
    text = SPEC.replace("    ema: {decay: 0.9}\n", terms) + "plugins: [./own.py]\n"
    with pytest.raises(SpecError, match=r"own-logcosh\.on\.0: unknown label 's9'"):
        spec = nasir.load_spec(write_spec(tmp_path, text.replace("[s1]", "[s9]").replace(RULES, "    epochs: 1\n")))
        nasir.import_plugins(spec)
        nasir.build(spec)
    nasir.run(write_spec(tmp_path, text), out=tmp_path / "run")
    journal = RunDirectory.open(tmp_path / "run").effective()
    epochs = [record for record in journal if isinstance(record, EpochRecord) and record.phase == "grow"]
    assert epochs and all(record.metrics["train.penalty"] > 0 for record in epochs)
