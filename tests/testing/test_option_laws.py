"""Options of blocks, steps and penalties refuse what their annotations do not allow, in Python and in a spec.

Passes, policies and ops have contracts, which hold them to the same law.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from nasir import get_pass
from nasir.blocks import STEPS, Maker, add_step, build_block
from nasir.errors import SpecError
from nasir.ir import Draft
from nasir.options import options_of, parameters_of
from nasir.registry import blocks, passes
from nasir.spec import loads_spec
from nasir.testing.option_laws import GROW, breaches, check_options, in_block, in_network, spec_with
from nasir.training.plans import PenaltyPlan


def ours(registry: Any) -> list[str]:
    """The names that nasir ships; tests register others."""
    return [name for name in registry.names() if registry._entry_points().get(name, _Other).value.startswith("nasir.")]


class _Other:
    value = ""


def block(name: str, options: Mapping[str, Any]) -> None:
    draft = Draft()
    build_block(draft, draft.add("input", (), "x", shape=[4, 8, 8]), "law", {"block": name, "options": options})


@pytest.mark.parametrize("name", ours(blocks))
def test_blocks(name: str) -> None:
    options, open_ended = parameters_of(blocks.get(name), 3)
    assert not open_ended
    check_options(options, lambda given: block(name, given), in_network(name), {})


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


BREACHES: dict[str, tuple[Any, Any]] = {
    "no_such_word' in Python is taken": (lambda given: None, None),
    "KeyError instead of a NasirError": (lambda given: {}[given["how"]], None),
    "in a spec is taken": (lambda given: get_pass("widen")(**given), lambda given: None),
    "against 'how: a spec says something else": (
        lambda given: get_pass("widen")(**given),
        "how: a spec says something else",
    ),
}


@pytest.mark.parametrize("text", BREACHES)
def test_a_breach_is_noticed(text: str) -> None:
    make, from_spec = BREACHES[text]
    if isinstance(from_spec, str):
        said = from_spec

        def from_spec(given: Mapping[str, Any]) -> None:
            raise SpecError(said)

    options = {"how": options_of(get_pass("widen"))["how"]}
    with pytest.raises(AssertionError, match=re.escape(text)):
        check_options(options, make, from_spec, {"factor": 1.5, "noise": 0.01})
