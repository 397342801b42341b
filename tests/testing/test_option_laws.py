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
from nasir.registry import blocks, exporters, optimizers, passes, penalties
from nasir.testing.option_laws import (
    breaches,
    check_options,
    in_block,
    in_network,
    in_optimizer,
    in_terms,
)
from nasir.training.exporter import exporter_named, make_exporter
from nasir.training.optimizers import optimizer_named
from nasir.training.penalties import penalty_named
from nasir.training.plans import OptimizerPlan, PenaltyPlan


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


@pytest.mark.parametrize("name", ours(optimizers))
def test_optimizers(name: str) -> None:
    options = options_of(optimizer_named(name))
    check_options(options, lambda given: OptimizerPlan(name, options=given), in_optimizer(name), {"lr": 0.1})


@pytest.mark.parametrize("name", ours(penalties))
def test_penalties(name: str) -> None:
    options = options_of(penalty_named(name))
    check_options(options, lambda given: PenaltyPlan(name, options=given), in_terms(name), {"strength": 0.1})


@pytest.mark.parametrize("name", ours(exporters))
def test_exporters(name: str) -> None:
    check_options(options_of(exporter_named(name)), lambda given: make_exporter(name, given), None, {})


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
