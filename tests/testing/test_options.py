"""Every option of everything that is registered refuses what its annotation does not allow, in Python and in a spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from nasir import get_pass
from nasir.blocks import STEPS, Maker, add_step, build_block
from nasir.ir import Draft
from nasir.ir.op import op_named
from nasir.options import options_of, parameters_of
from nasir.registry import blocks, ops, passes, policies
from nasir.spec import loads_spec
from nasir.spec.passes import policy_options
from nasir.testing.option_laws import GROW, breaches, check_options, in_block, in_network, in_phase, in_rule, spec_with
from nasir.training import PenaltyPlan


def ours(registry: Any) -> list[str]:
    """The names that nasir ships; tests register others."""
    return [name for name in registry.names() if registry._entry_points().get(name, _Other).value.startswith("nasir.")]


class _Other:
    value = ""


NEEDED: dict[str, dict[str, Any]] = {
    "prune-channels": {"fraction": 0.5},
    "widen": {"factor": 1.5, "noise": 0.01},
    "expand-to-budget": {"budget": 1e6},
}


@pytest.mark.parametrize("name", ours(passes))
def test_passes(name: str) -> None:
    made = get_pass(name)
    check_options(options_of(made), lambda given: made(**given), in_rule(name), NEEDED.get(name, {}))


@pytest.mark.parametrize("name", [name for name in ours(policies) if name != "rules"])
def test_policies(name: str) -> None:
    made = policy_options(policies.get(name))
    check_options(options_of(made), lambda given: made(**given), in_phase(name), {})


def block(name: str, options: Mapping[str, Any]) -> None:
    draft = Draft()
    build_block(draft, draft.add("input", (), "x", shape=[4, 8, 8]), "law", {"block": name, "options": options})


@pytest.mark.parametrize("name", ours(blocks))
def test_blocks(name: str) -> None:
    options, open_ended = parameters_of(blocks.get(name), 3)
    assert not open_ended
    check_options(options, lambda given: block(name, given), in_network(name), {})


SHIPPED_OPS = sorted(name for name in ops.names() if op_named(name).rule.__module__.startswith("nasir."))


@pytest.mark.parametrize("name", SHIPPED_OPS)
def test_ops(name: str) -> None:
    definition = op_named(name)
    right = {"out": 4, "kernel": 3, "heads": 1, "head_dim": 1, "scale": 1.0, "groups": 1, "size": 1, "start": 0}
    right |= {"stop": 1, "shape": (4,), "sizes": (1, 2)}
    given = {key: right[key] for key, option in definition.attrs.items() if option.required}
    a_step = definition.arity == (1, 1) and not definition.several and name not in STEPS
    check_options(
        definition.attrs, lambda values: definition.normalize(values, "law"), in_block(name) if a_step else None, given
    )


def step(name: str, options: Mapping[str, Any]) -> None:
    draft = Draft()
    add_step(Maker(draft), draft.add("input", (), "x", shape=[4, 8, 8]), name, options)


@pytest.mark.parametrize("name", STEPS)
def test_steps(name: str) -> None:
    options, _ = parameters_of(STEPS[name], 3)
    given = {key: 4 for key, option in options.items() if option.required}
    check_options(options, lambda values: step(name, values), in_block(name), given)


PENALTIES = {
    "gamma": ("strength", "resource", "threshold", "grouping", "batch"),
    "group-lasso": ("strength", "resource", "threshold", "grouping", "batch", "l1"),
    "l1": ("strength",),
    "layer-lasso": ("strength",),
}


@pytest.mark.parametrize("kind", PENALTIES)
def test_penalties(kind: str) -> None:
    def in_spec(options: Mapping[str, Any]) -> object:
        return loads_spec(spec_with(phases=[{**GROW, "regularize": [{kind: dict(options)}]}]), "law.yaml")

    options = {name: option for name, option in options_of(PenaltyPlan).items() if name in PENALTIES[kind]}
    check_options(options, lambda given: PenaltyPlan(kind, **given), in_spec, {"strength": 0.1})  # type: ignore[arg-type]


def test_the_law_asks_for_something_of_every_option() -> None:
    for name in ours(passes):
        for key, option in options_of(get_pass(name)).items():
            assert len(list(breaches(option.kind))) >= 3, f"{name}: {key}"
