"""Names that a spec gives to stages, sites and labels are looked for in the network as each phase will find it."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest
from small_runs import HEAD, write_spec

import nasir.api
from nasir.cli.main import main
from nasir.errors import SpecError
from nasir.passes.split_branches import SplitBranches
from nasir.running.names import check_names
from nasir.spec import load_spec, loads_spec
from nasir.spec.network import build
from nasir.spec.problems import SpecProblems

SPLIT = "{when: start, do: {split-branches: {branches: 4, planes: keep}}, where: {sites: [s2]}}"
MERGE, UNGROUP = "{when: start, do: merge-branches}", "{when: start, do: {ungroup-branches: {branches: 4}}}"
JOINT = SPLIT.replace("planes: keep", "planes: keep, train: joint, average: logits")


def grow(where: str, when: str = "every: 2") -> str:
    return f"{{{when}, do: {{insert-block: {{init: zero}}}}, where: {{{where}}}}}"


def spec(*phases: list[str], **keys: str) -> str:
    """A spec of phases a, b, ... of six epochs, each given by its rules; `keys`: more lines of one of them."""
    text = HEAD + "phases:\n"
    for name, rules in zip("abcd", phases, strict=False):
        text += f"  - name: {name}\n    optimizer: {{sgd: {{lr: 0.05}}}}\n{keys.get(name, '    epochs: 6')}\n"
        text += "    rules:\n" + "".join(f"      - {rule}\n" for rule in rules) if rules else ""
    return text


def told(text: str) -> list[str]:
    made = loads_spec(text, "s.yaml")
    try:
        check_names(made, build(made))
    except SpecProblems as error:
        return [str(problem) for problem in error.problems]
    return []


FREEZE = "    freeze: [{}]\n    epochs: 6"
LATE = SPLIT.replace("start", "{at: [3]}")
SOON = "{plateau: {window: 2}}"
BRANCHES = "'s1', 'branches.0.s2', 'branches.1.s2', 'branches.2.s2', 'branches.3.s2'"


@pytest.mark.parametrize("key", ["stages", "sites"])
def test_a_branch_that_a_split_does_not_make_is_told_with_what_there_is(key: str) -> None:
    text = spec([SPLIT], [grow(f"{key}: [s1, branches.7.s2]")])
    (problem,) = told(text)
    line = 1 + text[: text.index("branches.7")].count("\n")
    column = 1 + len(text[: text.index("branches.7")].rpartition("\n")[2])
    more = ", 's1.0', 'branches.0.s2.0', 'branches.1.s2.0' and 2 more" if key == "sites" else ""
    assert problem == (
        f"s.yaml:{line}:{column}: phases.1.rules.0.where.{key}.1: after epoch 2 of phase 'b' the network has no "
        f"{key[:-1]} 'branches.7.s2'; it has {BRANCHES}{more}; did you mean 'branches.3.s2'?"
    )
    assert told(text.replace("branches.7", "branches.3")) == []


FINE = [
    spec([SPLIT], [grow("stages: [s2]")]),  # a name follows what it stood for
    spec([SPLIT, grow("stages: [branches.2.s2]")]),
    spec([SPLIT], [MERGE], [grow("stages: [s2]")]),
    spec([JOINT], [MERGE], [grow("stages: [s2]")]),
    spec([JOINT], [MERGE], [UNGROUP], [grow("stages: [branches.1.s2]")]),
    spec([grow("stages: [s1]", "when: start")], [grow("sites: [s1.1]")]),
    spec([grow("stages: [s1]")], [grow("sites: [s1.4]")]),  # training says how many blocks there are
    spec([SPLIT.replace("start", "{at: [2]}"), grow("stages: [branches.2.s2]", "every: 3")]),
    spec([SPLIT.replace("start", "{at: [6]}")], [grow("stages: [branches.2.s2]")]),
    spec([SPLIT.replace("start", "end")], [grow("stages: [branches.2.s2]")]),
    spec([], [], b="    freeze: [s1.0]\n    epochs: 6"),
    spec([SPLIT], b="    freeze: [s1]\n    epochs: 6"),
    spec([SPLIT.replace("start", SOON)], [grow("stages: [s2]")]),
    spec([SPLIT], [grow("stages: [branches.2.s2]")], a="    until: {above: {metric: val.accuracy, value: 1}}"),
    spec(  # what is named by a rule that is not due keeps no phase from ending, and is no error
        [grow("stages: [s1]", "every: 1, at_most: 1"), LATE, grow("stages: [branches.2.s2]", "every: 4, at_most: 2")],
        a="    epochs: 6\n    until: all_frozen",
    ),
    spec([SPLIT], [], b="    freeze: [branches.1, branches.2.s2]\n    epochs: 6"),
]


@pytest.mark.parametrize("text", FINE)
def test_names_that_are_there_when_they_are_looked_for_are_no_problem(text: str) -> None:
    assert told(text) == []


@pytest.mark.parametrize(
    ("phases", "keys", "problem"),
    [
        (
            [[JOINT], [MERGE], [grow("stages: [branches.1.s2]")]],
            {},
            "after epoch 2 of phase 'c' the network has",
        ),
        ([[JOINT], [MERGE], [UNGROUP], [grow("sites: [branches.5.s2]")]], {}, "after epoch 2 of phase 'd' the network"),
        ([[grow("stages: [s1]", "when: start")], [grow("sites: [s1.2]")]], {}, "has no site 's1.2'; it has"),
        ([[grow("stages: [s1]")], [grow("sites: [s3.4]")]], {}, "has no site 's3.4'; it has 's1', 's2'"),
        (
            [[grow("stages: [branches.2.s2]"), SPLIT.replace("start", "{at: [3]}")]],
            {},
            "after epoch 2 of phase 'a'",
        ),
        ([[grow("sites: [s9]", "when: end")]], {}, "when phase 'a' ends the network has no site 's9'"),
        ([[SPLIT], [grow("stages: [branches.9.s2]", "when: start")]], {}, "when phase 'b' begins the network has no"),
        ([[], [SPLIT]], {"b": FREEZE.format("s2")}, "when phase 'b' begins the network has nothing labelled 's2'"),
        ([[SPLIT], []], {"b": FREEZE.format("branches.4")}, "nothing labelled 'branches.4' or below it"),
        (
            [[grow("sites: [s9]", "weight: 1")]],
            {"a": "    epochs: 6\n    policy: evolve"},
            "in phase 'a' the network",
        ),
        ([[grow("sites: [s9]", "every: 6, at_most: 2")]], {}, "after epoch 6 of phase 'a' the network has no site"),
        ([[SPLIT], [SPLIT]], {}, "when phase 'b' begins the network has no site 's2'; it has no sites"),
        ([[SPLIT], [grow("sites: [branches]")]], {}, "the network has no site 'branches'"),
        ([[SPLIT], [grow("sites: [0.s2]")]], {}, "the network has no site '0.s2'"),
    ],
)
def test_names_that_are_not_there_then_are_told(phases: list[list[str]], keys: dict[str, str], problem: str) -> None:
    (line,) = told(spec(*phases, **keys))
    assert problem in line


@pytest.mark.parametrize(
    "text",
    [
        spec([SPLIT.replace("start", SOON)], [grow("stages: [branches.2.s2]")]),
        spec(
            [SPLIT.replace("start", "{at: [4]}")],
            [grow("stages: [branches.2.s2]")],
            a="    epochs: 6\n    until: {above: {metric: val.accuracy, value: 0.9}}",
        ),
        spec([SPLIT.replace("start,", "start, trial: {epochs: 1},")], [grow("stages: [branches.2.s2]")]),
        spec([SPLIT.replace("start", "{above: {metric: val.loss, value: 1}}"), grow("stages: [branches.2.s2]")]),
    ],
)
def test_names_that_may_not_be_there_are_told_with_one_that_is(text: str) -> None:
    (line,) = told(text)
    assert "the network may have no stage 'branches.2.s2', for that depends on when split-branches acts" in line
    assert line.endswith("; name 's2', which stands for what becomes of it too")


def test_a_site_that_is_drawn_leads_to_each_of_its_networks() -> None:
    drawn = "{when: start, do: {split-branches: {branches: 2}}, where: {stages: [s1, s2], order: random}}"
    assert told(spec([drawn], [grow("stages: [branches.1.s2]")])) == []
    (line,) = told(spec([drawn], [grow("stages: [branches.1.s1]")]))
    assert "may have no stage 'branches.1.s1'" in line and "name 's1'" in line


def test_all_are_told_at_once_and_each_once() -> None:
    text = spec([SPLIT, grow("stages: [branches.8.s2]")], [grow("stages: [s1, branches.9.s2, branches.7.s2]")])
    assert [line.split(": ")[1] for line in told(text)] == [
        "phases.0.rules.1.where.stages.0",
        "phases.1.rules.0.where.stages.1",
        "phases.1.rules.0.where.stages.2",
    ]


def test_check_and_run_refuse_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_spec(tmp_path, spec([SPLIT], [grow("stages: [branches.7.s2]")]))
    for command in (["check", str(path)], ["run", str(path), "--out", str(tmp_path / "run")]):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert f"{path}:" in error and "no stage 'branches.7.s2'" in error and "Traceback" not in error
    assert not (tmp_path / "run").exists()
    with pytest.raises(SpecProblems):
        nasir.api.run(path, tmp_path / "run")


def test_what_the_last_rule_that_names_anything_makes_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branches of a large network take seconds, and a check of a moment is to take one."""

    def rewrite(*given: object) -> None:
        raise AssertionError("split")

    monkeypatch.setattr(SplitBranches, "rewrite", rewrite)
    assert told(spec([SPLIT])) == []
    (line,) = told(spec([SPLIT.replace("s2", "s9")]))
    assert "when phase 'a' begins the network has no site 's9'" in line


def shipped() -> list[Path]:
    return sorted(Path(str(resources.files("nasir.specs"))).rglob("*.yaml"))


def test_all_shipped_specs_find_what_they_name() -> None:
    checked = 0
    for path in shipped():
        try:
            made = load_spec(path)
            graph = build(made)
        except SpecError:  # of a search, or of a network that only a run makes
            continue
        check_names(made, graph)
        checked += 1
    assert checked > 80 and len(shipped()) > checked
