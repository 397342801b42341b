"""`policy:` of a phase: names, options and what a policy says of its phase, each at its place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from spec_examples import VALID, changed

from nasir.cli.main import main
from nasir.errors import NasirError, OptionError, SpecError
from nasir.policy import Decision, EvolvePolicy, History, PhaseView, RulePlan, RulesPolicy
from nasir.policy.base import Fault
from nasir.policy.plans import PhasePlan
from nasir.registry import policies
from nasir.spec import Spec, json_schema, loads_spec, make_policy
from nasir.spec.past import load_stored
from nasir.spec.search import loads_search

EVOLVE = VALID.replace(
    """\
    rules:
      - every: 3 epochs
        do: {try-this: {init: gaussian}}
        freeze: {plateau: {window: 10, less_than: 0.01}}
    until: all_frozen
""",
    """\
    policy: {evolve: {population: 5, generations: 7, epochs: 2}}
    rules:
      - {do: {try-this: {init: gaussian}}, weight: 2, at_most: 3}
""",
)


def message(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        loads_spec(text, "s.yaml")
    return str(caught.value).splitlines()


def evolving(old: str, new: str) -> str:
    assert EVOLVE.count(old) == 1, old
    return EVOLVE.replace(old, new)


def made(spec: Spec, phase: int = 0) -> Any:
    return make_policy(spec.phases[phase].plan(), spec.seed)


def test_a_phase_that_names_no_policy_has_rules_and_the_digest_it_had_before() -> None:
    spec = loads_spec(VALID)
    assert isinstance(made(spec), RulesPolicy)
    assert "policy" not in spec.to_yaml() and "weight:" not in spec.to_yaml()
    assert spec.phases[0].plan().policy == "rules"
    bare = loads_spec(changed("    rules:\n", "    policy: rules\n    rules:\n"))
    assert isinstance(made(bare), RulesPolicy) and bare.phases[0].plan() == spec.phases[0].plan()


def test_the_options_of_a_policy_reach_it() -> None:
    spec = loads_spec(EVOLVE)
    policy = made(spec)
    assert isinstance(policy, EvolvePolicy)
    assert (policy.options.population, policy.options.generations, policy.options.epochs) == (5, 7, 2)
    plan = spec.phases[0].plan()
    assert plan.rules == (RulePlan("grow.rules.0", "try-this", {"init": "gaussian"}, at_most=3, weight=2.0),)
    assert plan.policy_options == {"population": 5, "generations": 7, "epochs": 2}
    again = loads_spec(spec.to_yaml())
    assert again.digest == spec.digest and again.phases[0].plan() == plan


def test_lists_become_tuples_and_a_bare_name_takes_the_defaults() -> None:
    spec = loads_spec(evolving("epochs: 2}", "epochs: 2, objectives: [val.accuracy, {minimize: macs}]}"))
    assert made(spec).options.objectives == ("val.accuracy", {"minimize": "macs"})
    spec = loads_spec(evolving("{evolve: {population: 5, generations: 7, epochs: 2}}", "evolve\n    epochs: 9"))
    assert made(spec).options.population == 10


@pytest.mark.parametrize(
    "old, new, expected",
    [
        ("{evolve: {", "{evolv: {", "13:14: phases.0.policy.evolv: unknown policy 'evolv'; did you mean 'evolve'?"),
        (
            "population: 5",
            "populaton: 5",
            "13:23: phases.0.policy.evolve.populaton: unknown option of evolve; did you mean 'population'?",
        ),
        (
            "population: 5",
            "population: five",
            "13:35: phases.0.policy.evolve.population: expected a whole number, found the text 'five'; "
            "write digits only, such as 3",
        ),
        (
            "population: 5",
            "population: 0",
            "13:35: phases.0.policy.evolve.population: must be at least 1, found 0; use a value at least 1",
        ),
        (
            "epochs: 2}",
            "epochs: 2, select: {tournament: 0}}",
            "13:86: phases.0.policy.evolve.select.tournament: must be at least 1, found 0; use a value at least 1",
        ),
        (
            "{evolve: {population: 5, generations: 7, epochs: 2}}",
            "{evolve: {}, rules: {}}",
            "13:13: phases.0.policy: expected one policy, found 'evolve' and 'rules'; write `policy: {evolve: {...}}`",
        ),
        (
            "{evolve: {population: 5, generations: 7, epochs: 2}}",
            "[evolve]",
            "13:13: phases.0.policy: expected a policy; write `policy: evolve` or `policy: {evolve: {...}}`",
        ),
        ("weight: 2", "weight: 0", "15:52: phases.0.rules.0.weight: must be above 0, found 0; use a value above 0"),
        (
            "weight: 2",
            "every: 2",
            "15:51: phases.0.rules.0.every: evolution draws its mutations itself; remove `every`",
        ),
        (
            "weight: 2",
            "decline: stop",
            "15:53: phases.0.rules.0.decline: another mutation is drawn in place of one that was declined; "
            "remove `decline`",
        ),
        (
            "weight: 2",
            "where: {count: 2}",
            "15:59: phases.0.rules.0.where.count: a mutation is one rewrite; give the policy more `mutations`",
        ),
        (
            "weight: 2",
            "where: {order: all}",
            "15:59: phases.0.rules.0.where.order: evolution draws the place of a mutation; remove `order`",
        ),
        (
            "weight: 2",
            "budget: {seconds: 3}",
            "15:62: phases.0.rules.0.budget.seconds: only `params` and `macs` bound a mutation; "
            "put `seconds` into the phase's `budget`",
        ),
        (
            "generations: 7, ",
            "",
            "11:5: phases.0: the phase 'grow' never ends; add `generations` to the policy, or `epochs`, `until` or "
            "`budget`",
        ),
        (
            "at_most: 3}\n",
            "at_most: 3}\n    epochs: 1\n",
            "16:13: phases.0.epochs: 1 is too few: the start network alone is trained for 2 epochs; raise it, or "
            "leave it out and give `generations` to the policy",
        ),
        (
            "at_most: 3}\n",
            "at_most: 3}\n    until: all_frozen\n",
            "16:12: phases.0.until: evolution freezes nothing; give `generations` to the policy, or a condition",
        ),
        (
            "at_most: 3}\n",
            "at_most: 3}\n    schedule: {cosine: {restart: 3}}\n",
            "16:15: phases.0.schedule: evolve may go on with another network after 2 epochs, the learning rate does "
            "not start over; write `constant`, or `cosine` with `restart: 2 epochs`",
        ),
        (
            "at_most: 3}\n",
            "at_most: 3}\n    epochs: 40\n    schedule: cosine\n",
            "17:15: phases.0.schedule: evolve may go on with another network after 2 epochs, the learning rate does "
            "not start over; write `constant`, or `cosine` with `restart: 2 epochs`",
        ),
        (
            "validation: 0.2",
            "validation: 0",
            "13:22: phases.0.policy.evolve: val.accuracy needs validation data, and `data.validation` is 0; "
            "set `data.validation`, such as 0.1, or use a train metric",
        ),
    ],
)
def test_what_is_wrong_is_told_at_its_place(old: str, new: str, expected: str) -> None:
    assert message(evolving(old, new)) == [f"s.yaml:{expected}"]


def test_an_evolution_from_before_rules_had_decline_is_no_fault(tmp_path: Path) -> None:
    stored = tmp_path / "spec.yaml"
    stored.write_text(loads_spec(EVOLVE).to_yaml().replace("    decline: again\n", ""))
    assert "decline" not in stored.read_text()
    spec = load_stored(stored)
    assert spec.phases[0].rules[0].decline == "stop"
    with pytest.raises(SpecError, match="remove `decline`"):
        loads_spec(spec.to_yaml())


GROW_AND_SHRINK = """\
    until: all_frozen
    rules:
      - {every: 1, do: {insert-block: {init: zero}}, BOUND}
      - {every: 2, do: remove-block}
"""
TURNS = VALID.partition("    rules:")[0]


@pytest.mark.parametrize("bound", ["at_most: 3", "budget: {params: 50000}", "trial: {epochs: 1}"])
def test_a_phase_that_waits_for_what_is_undone_again_and_again_is_refused(bound: str) -> None:
    text = TURNS + GROW_AND_SHRINK.replace("BOUND", bound)
    lines = [1 + text[: text.index(part)].count("\n") for part in ("until:", "insert-block", "remove-block")]
    key = bound.partition(":")[0]
    assert message(text) == [
        f"s.yaml:{lines[0]}:12: phases.0.until: may never hold: what stops insert-block (`{key}`, line {lines[1]}) is "
        f"undone by remove-block (line {lines[2]}) again and again; give the phase `epochs`, or `freeze` or "
        "`decline: stop` to the rule of insert-block"
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("    until: all_frozen\n", "    until: all_frozen\n    epochs: 30\n"),
        ("    until: all_frozen\n", "    until: all_frozen\n    budget: {epochs: 30}\n"),
        ("BOUND", "BOUND, decline: stop"),
        ("BOUND", "BOUND, freeze: plateau"),
        ("remove-block", "remove-block, decline: stop"),  # nothing is left to remove, and it never returns
        ("every: 2", "when: {at: [2, 4]}"),
        ("every: 2", "when: end"),
        ("do: remove-block", "do: {insert-block: {init: zero}}, at_most: 2"),
        ("do: remove-block", "do: {expand-to-budget: {budget: 9.0e+6}}"),
    ],
)
def test_a_phase_whose_rules_come_to_an_end_may_wait_for_it(old: str, new: str) -> None:
    text = TURNS + GROW_AND_SHRINK
    assert text.count(old) == 1
    assert loads_spec(text.replace(old, new).replace("BOUND", "at_most: 3"), "s.yaml")


def test_all_faults_are_told_at_once() -> None:
    text = evolving("weight: 2", "every: 2, where: {count: 2}, freeze: {plateau: {}}")
    assert [line.split(": ")[1] for line in message(text)] == [
        "phases.0.rules.0.every",
        "phases.0.rules.0.where.count",
        "phases.0.rules.0.freeze",
    ]


def test_rules_draw_nothing() -> None:
    [line] = message(changed("      - every: 3 epochs\n", "      - every: 3 epochs\n        weight: 2\n"))
    assert line == (
        "s.yaml:15:9: phases.0.rules.0.weight: the policy `rules` does not draw among its rules; remove it, or give "
        "the phase a policy that does, such as `policy: evolve`"
    )


def test_a_phase_without_mutations_says_so() -> None:
    start = EVOLVE.index("    rules:")
    [line] = message(EVOLVE[:start] + EVOLVE[EVOLVE.index("  - name: finetune") :])
    assert line.endswith("evolves and has no mutations; add `rules: [{do: insert-block}]`")


def test_a_schedule_that_restarts_with_each_child_is_fine() -> None:
    for schedule in ("{cosine: {restart: 2}}", "{cosine: {restart: 1}}", "{staircase: {at: [0.5], restart: 2}}"):
        loads_spec(evolving("at_most: 3}\n", f"at_most: 3}}\n    schedule: {schedule}\n"))
    text = evolving("epochs: 2}", "epochs: 2, initial: 3}").replace(
        "at_most: 3}\n", "at_most: 3}\n    schedule: {cosine: {restart: 2}}\n"
    )
    [line] = message(text)
    assert "after 1 epoch," in line, "the children would begin in the middle of a cosine"


@pytest.fixture
def registered() -> Iterator[type]:
    known = dict(policies._objects)

    @policies.register("picky")
    class Picky:
        """Refuses its phase."""

        @dataclass(frozen=True)
        class Options:
            share: float
            names: tuple[str, ...] = ()

        def __init__(self, plan: PhasePlan, seed: int, options: Options) -> None:
            self.plan, self.seed, self.options = plan, seed, options

        def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
            return ()

        @staticmethod
        def faults(plan: PhasePlan, options: Options) -> Iterator[Fault]:
            if options.share > 1:
                yield ("policy", "picky", "share"), f"{options.share} is too much", "take less"

    yield Picky
    policies._objects.clear()
    policies._objects.update(known)


def test_a_policy_of_ones_own_is_checked_alike(registered: type) -> None:
    old = "{evolve: {population: 5, generations: 7, epochs: 2}}"
    spec = loads_spec(evolving(old, "{picky: {share: 0.5, names: [a]}}"))
    assert made(spec).options == registered.Options(0.5, ("a",))  # type: ignore[attr-defined]
    assert message(evolving(old, "{picky: {share: 2}}")) == [
        "s.yaml:13:29: phases.0.policy.picky.share: 2.0 is too much; take less"
    ]
    assert message(evolving(old, "picky")) == [
        "s.yaml:13:13: phases.0.policy.picky.share: this option is required; add `share: ...`"
    ]
    del registered.faults  # type: ignore[attr-defined]
    [line] = message(evolving(old, "{picky: {share: 0.5}}"))
    assert "the phase 'grow' never ends" in line


BROKEN = {
    "takes-too-little": ("def __init__(self, plan): ...", "TypeError: ", "it is made as Broken(plan, seed)"),
    "takes-options": ("def __init__(self, plan, seed, options): ...", "TypeError: ", "made as Broken(plan, seed)"),
    "fails": ("def __init__(self, plan, seed): raise KeyError('width')", "raised KeyError: 'width'; it is made as", ""),
    "decides-nothing": ("def __init__(self, plan, seed): ...", "has no method `decide`; define `decide(self,", ""),
    "has-faults": (
        "faults = staticmethod(lambda plan: 1 / 0)\n    decide = lambda self, history, view: ()",
        "raised ZeroDivisionError: division by zero; mend its `faults`",
        "",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_policy_that_cannot_be_made_is_told_with_its_name_and_place(
    name: str, tmp_path: Path, registered: type, capsys: pytest.CaptureFixture[str]
) -> None:
    body, *texts = BROKEN[name]
    code = f"from nasir.registry import policies\n@policies.register({name!r})\nclass Broken:\n    {body}\n"
    (tmp_path / "broken.py").write_text(code)
    text = evolving("{evolve: {population: 5, generations: 7, epochs: 2}}", f"{name}\n    epochs: 9")
    (tmp_path / "s.yaml").write_text(f"plugins: [./broken.py]\n{text}")
    assert main(["run", str(tmp_path / "s.yaml"), "--out", str(tmp_path / "run")]) == 2
    shown = capsys.readouterr().err
    assert f"s.yaml:14:13: phases.0.policy: policy {name} (" in shown and "broken.py:2)" in shown
    assert all(text in shown for text in texts), shown
    assert "Traceback" not in shown and not (tmp_path / "run").exists()
    with pytest.raises(NasirError, match=f"policy {name} "):  # in Python, of a plan that no spec checked
        make_policy(PhasePlan("p", epochs=1, policy=name), 0) if name != "has-faults" else loads_spec(text)


def test_a_policy_that_only_a_plugin_can_know_is_noted() -> None:
    text = "plugins: [./mine.py]\n" + evolving("{evolve: {population: 5, generations: 7, epochs: 2}}", "own")
    (note,) = loads_spec(text, "s.yaml").notes
    assert "14:13: unknown policy 'own' here; a run must find it in the plugins" in note


def test_wrong_options_of_a_plan_are_a_clear_error() -> None:
    plan = PhasePlan("p", rules=(RulePlan("r", "insert-block"),), policy="evolve", policy_options={"size": 1})
    with pytest.raises(OptionError, match="policy evolve: size: unknown option"):
        make_policy(plan, 0)


def test_the_schema_offers_policies_and_their_options() -> None:
    policy = json_schema()["$defs"]["Phase"]["properties"]["policy"]
    names, full = policy["anyOf"][:2]  # or a choice of `nasir search`
    assert set(names["enum"]) >= {"rules", "evolve"}
    population = full["properties"]["evolve"]["anyOf"][0]["properties"]["population"]
    assert {"type": "integer", "minimum": 1} in population["anyOf"] and population["default"] == 10
    assert "rules" in full["properties"]


def test_options_of_a_policy_can_be_searched() -> None:
    text = evolving("population: 5", "population: {choose: {int: [2, 6]}}").replace(
        "weight: 2", "weight: {choose: [1, 3]}"
    )
    spec = loads_search(text + "search: {trials: 3}\n", "s.yaml")
    assert [choice.name for choice in spec.space.choices] == [
        "phases.0.policy.evolve.population",
        "phases.0.rules.0.weight",
    ]
    trial = spec.trial({"phases.0.policy.evolve.population": 4, "phases.0.rules.0.weight": 3})
    assert made(trial).options.population == 4 and trial.phases[0].plan().rules[0].weight == 3
    with pytest.raises(SpecError, match=r"evolve\.population: must be at least 1, found 0"):
        loads_search(text.replace("[2, 6]", "[0, 6]") + "search: {trials: 3}\n", "s.yaml")
