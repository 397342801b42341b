"""Rules that can never act are errors where they are written, and only where that is certain."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import HEAD, write_spec

import nasir.api
from nasir.cli.main import main
from nasir.running.reach import check_reach
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.spec.problems import SpecProblems

PLAIN = HEAD.replace("block: basic", "block: plain")
PHASE = "  - name: NAME\n    epochs: 3\n    optimizer: {sgd: {lr: 0.05}}\n    rules:\n"


def spec(head: str, *phases: list[str]) -> str:
    """A spec of phases a, b, ..., each given by its rules."""
    text = head + "phases:\n"
    for number, rules in enumerate(phases):
        text += PHASE.replace("NAME", "abc"[number]) + "".join(f"      - {rule}\n" for rule in rules)
    return text


def rule(action: str, more: str = "") -> str:
    return f"{{every: 1, do: {action}{more}}}"


def told(text: str) -> list[str]:
    made = loads_spec(text, "s.yaml")
    try:
        check_reach(made, build(made))
    except SpecProblems as error:
        return [str(problem) for problem in error.problems]
    return []


ZERO, FRESH = rule("{insert-block: {init: zero}}"), rule("{insert-block: {init: default}}")
REMOVE, PRUNE = rule("remove-block"), rule("{prune-channels: {fraction: 0.5}}")


@pytest.mark.parametrize("init", ["zero", "gaussian", "uniform", "uniform_std1", "adam", "near_zero"])
def test_plain_networks_do_not_grow_by_residual_initializers(init: str) -> None:
    text = spec(PLAIN, [rule(f"{{insert-block: {{init: {init}}}}}")])
    (problem,) = told(text)
    line = text[: text.index("insert-block")].count("\n") + 1
    assert problem.startswith(f"s.yaml:{line}:") and "insert-block declines everywhere (at s1: " in problem


def test_all_rules_of_a_network_that_nothing_changes_are_told() -> None:
    problems = told(spec(PLAIN, [ZERO, rule("merge-branches")], [ZERO]))
    assert [problem.split(": ")[1] for problem in problems] == [
        "phases.0.rules.0.do",
        "phases.0.rules.1.do",
        "phases.1.rules.0.do",
    ]
    assert told(spec(PLAIN, [ZERO], [FRESH, ZERO]))[0].split(": ")[1] == "phases.0.rules.0.do"


@pytest.mark.parametrize(
    "text",
    [
        spec(HEAD, [ZERO]),
        spec(PLAIN, [FRESH]),
        spec(PLAIN, [ZERO, FRESH]),  # what acts makes another network, in which no check can be certain
        spec(PLAIN, [FRESH], [ZERO]),
        spec(PLAIN, [PRUNE]),  # measures weights that are not there yet
        spec(PLAIN, [rule("insert-random-block")]),  # draws
        spec(HEAD, [FRESH], [REMOVE]),
        spec(HEAD),
    ],
)
def test_what_may_act_is_no_problem(text: str) -> None:
    assert told(text if "rules" in text else text + PHASE.partition("    rules")[0].replace("NAME", "a")) == []


def test_check_and_run_refuse_such_a_spec_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_spec(tmp_path, spec(PLAIN, [ZERO]))
    for command in (["check", str(path)], ["run", str(path), "--out", str(tmp_path / "run")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{path}:" in error and "the rule can never act" in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecProblems):
        nasir.api.run(path, tmp_path / "run")
