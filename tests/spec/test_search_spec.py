"""Specs with choices: what is refused, the plain spec of each point, and the text that another machine reads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from spec_examples import VALID, bad_cases, changed

from nasir.cli.main import main
from nasir.errors import SpecError
from nasir.spec import SearchSpec, choice_syntax, load_search, load_spec, loads_search, loads_spec, variants
from nasir.spec.domains import values_of
from nasir.spec.model_search import Constraint, Search
from nasir.spec.search import load_any
from nasir.spec.tree import Tree

CASES = bad_cases(Path(__file__).with_name("bad_searches.txt"))
RULE = """\
      - every: 3 epochs
        do: {try-this: {init: gaussian}}
        freeze: {plateau: {window: 10, less_than: 0.01}}
"""
CHOSEN = """\
      - choose:
          cases:
            grow:
              every: {choose: {int: [1, 5]}, default: 3}
              do: {try-this: {init: {choose: [zero, gaussian], name: init}}}
            none: null
        name: rule
"""
SPEC = (
    changed(RULE, CHOSEN)
    .replace("    until: all_frozen\n", "    epochs: 9\n")
    .replace("lr: 0.1", "lr: {choose: {float: [0.01, 1.0], log: true}, default: 0.1, name: lr}")
)
SECTION = "search: {trials: 7, sampler: random, objectives: [{maximize: val.accuracy}, {minimize: macs}]}\n"


def written(folder: Path, text: str, name: str = "s.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def searched(folder: Path, text: str, *overrides: str) -> SearchSpec:
    return load_search(written(folder, text), overrides)


@pytest.mark.parametrize(("text", "expected"), CASES)
def test_a_malformed_search_is_told_where_and_what_and_how_to_mend_it(
    text: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        load_search("s.yaml")
    assert str(caught.value).splitlines() == expected


def test_the_table_of_malformed_searches_is_large() -> None:
    assert len(CASES) > 120


def test_all_problems_of_all_alternatives_are_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        SPEC.replace("[zero, gaussian]", "[zero, uniform, one]").replace("[1, 5]", "[0, 5]") + "search: {trials: 0}\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError) as caught:
        searched(Path(), text)
    places = [line.split(": ")[0] for line in str(caught.value).splitlines()]
    assert places == ["s.yaml:17:38", "s.yaml:18:53", "s.yaml:18:62", "s.yaml:25:18"]


def test_all_malformed_choices_are_told_at_once() -> None:
    text = SPEC.replace("[zero, gaussian]", "[zero]").replace("[1, 5]", "[5, 1]").replace("name: rule", "nam: rule")
    with pytest.raises(SpecError) as caught:
        loads_search(text, "s.yaml")
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [
        "s.yaml:17:37",
        "s.yaml:18:46",
        "s.yaml:20:9",
    ]


def test_a_problem_in_an_extended_file_is_told_there(tmp_path: Path) -> None:
    base = written(tmp_path, SPEC.replace("[zero, gaussian]", "[zero, uniform]"), "base.yaml")
    with pytest.raises(SpecError) as caught:
        searched(tmp_path, "extends: base.yaml\nseed: {choose: [-1, 2]}\n")
    lines = str(caught.value).splitlines()
    assert lines[0].startswith(f"{base}:18:53: phases.0.rules.0.do.try-this.init: unknown value 'uniform'")
    assert lines[1].startswith(f"{tmp_path}/s.yaml:2:17: seed: must be at least 0, found -1")


def test_a_plain_run_refuses_every_choice_and_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_spec(written(tmp_path, SPEC.replace("name: finetune", "repeat: {choose: [1, 2]}")))
    lines = [line.partition(f"{tmp_path}/")[2] for line in str(caught.value).splitlines()]
    assert lines == [
        f"s.yaml:{place}: `choose` gives several values, and only `nasir search` can choose; "
        "search the spec, or give one value"
        for place in ("12:27: phases.0.optimizer.sgd.lr", "14:9: phases.0.rules.0", "22:13: phases.1.repeat")
    ]


def test_a_plain_run_reads_past_a_search_section() -> None:
    spec = loads_spec(VALID + SECTION)
    assert spec.search is not None and spec.search.trials == 7
    assert loads_spec(spec.to_yaml()).digest == spec.digest
    assert loads_spec(VALID + "search:\n").digest == loads_spec(VALID).digest


def test_load_any_tells_plain_specs_from_searches(tmp_path: Path) -> None:
    spec, search = load_any(written(tmp_path, VALID + SECTION))
    assert search is None and spec.digest == loads_spec(VALID + SECTION).digest
    spec, search = load_any(written(tmp_path, SPEC))
    assert search is not None and spec.digest == search.base.digest
    assert load_any(tmp_path / "s.yaml", ["phases.0.rules=[]", "phases.0.optimizer.sgd.lr=1"])[1] is None


# -- points


def test_a_point_is_the_plain_spec_that_one_would_write(tmp_path: Path) -> None:
    spec = searched(tmp_path, SPEC + SECTION)
    plain = changed(RULE, RULE.replace("every: 3 epochs", "every: 4").replace(RULE.splitlines(True)[2], ""))
    plain = plain.replace("    until: all_frozen\n", "    epochs: 9\n").replace("lr: 0.1", "lr: 0.5")
    made = spec.trial({"lr": 0.5, "rule": "grow", "phases.0.rules.0.grow.every": 4, "init": "gaussian"})
    assert made.digest == loads_spec(plain).digest
    assert made.search is None
    without = spec.trial({"lr": 0.5, "rule": "none"})
    assert without.phases[0].rules == ()
    assert spec.base.digest == spec.trial(spec.space.base()).digest
    assert (spec.name, spec.seed, spec.trials, spec.base_folder) == ("small", 0, 7, tmp_path.resolve())


def test_a_choice_in_a_repeated_group_is_one_choice(tmp_path: Path) -> None:
    text = VALID + "  - repeat: {choose: [2, 3], name: times}\n    phases: [{name: again, epochs: {choose: [1, 2]}}]\n"
    spec = searched(tmp_path, text)
    assert [choice.name for choice in spec.space.choices] == ["times", "phases.2.phases.0.epochs"]
    made = spec.trial({"times": 3, "phases.2.phases.0.epochs": 2})
    assert [(phase.name, phase.epochs) for phase in made.phases[2:]] == [("again.1", 2), ("again.2", 2), ("again.3", 2)]


def test_an_override_fixes_a_choice(tmp_path: Path) -> None:
    spec = searched(tmp_path, SPEC, "phases.0.optimizer.sgd.lr=0.3", "search.trials=3", "search.sampler=grid")
    assert [choice.name for choice in spec.space.choices] == ["rule", "phases.0.rules.0.grow.every", "init"]
    assert spec.base.phases[0].optimizer_plan().lr == 0.3
    assert spec.trials == 3
    assert searched(tmp_path, SPEC, "phases.0.rules.0.default=none").base.phases[0].rules == ()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": 0.1}, "s.yaml:14:9: rule: this point has no value for it; give grow | none"),
        ({"lr": 2, "rule": "none"}, "s.yaml:12:27: lr: cannot be 2; give a number, 0.01 to 1"),
        ({"lr": "x", "rule": "none"}, "s.yaml:12:27: lr: cannot be x; give a number, 0.01 to 1"),
        ({"lr": 0.1, "rule": "no"}, "s.yaml:14:9: rule: cannot be no; give one of grow, none"),
        ({"lr": 0.1, "rule": "none", "ruel": 1}, "s.yaml:1:1: there is no choice 'ruel'; did you mean 'rule'?"),
        (
            {"lr": 0.1, "rule": "none", "init": "zero"},
            "s.yaml:18:37: init: has a value, but is not asked at this point; leave ",
        ),
    ],
)
def test_values_that_are_no_point_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        loads_search(SPEC, "s.yaml").trial(values)
    assert str(caught.value).startswith(message)


def test_what_does_not_go_together_is_told_at_its_place(tmp_path: Path) -> None:
    text = changed("epochs: 20", "until: {at: 5}\n    epochs: {choose: [20, null], name: length}")
    text = text.replace("schedule: {staircase", "schedule: {choose: [constant, {staircase").replace(
        "0.75]}}", "0.75]}}], name: s}"
    )
    spec = searched(tmp_path, text)
    assert spec.trial({"length": None, "s": "constant"}).phases[1].epochs is None
    assert spec.trial({"length": 20, "s": "staircase"}).phases[1].epochs == 20
    with pytest.raises(SpecError, match=r"s\.yaml:21:35: phases\.1\.schedule: staircase needs to know how long"):
        spec.trial({"length": None, "s": "staircase"})
    with pytest.raises(ValueError, match="one of 20, null"):
        spec.sample(lambda choice: 3)


# -- text


def test_the_text_of_a_spec_with_choices_is_the_whole_of_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    written(tmp_path / "sub", "plugins: [./mine.py]\n" + SPEC + SECTION, "base.yaml")
    written(tmp_path / "sub", "", "mine.py")
    spec = searched(tmp_path, "extends: sub/base.yaml\n", "data.batch_size=32")
    text = spec.to_text()
    again = loads_search(text, "/elsewhere/s.yaml")
    assert str(tmp_path / "sub" / "mine.py") in text
    assert again.space.digest == spec.space.digest
    assert again.search == spec.search
    assert again.base.digest == spec.base.digest
    assert again.base.plugins == spec.base.plugins
    assert again.to_text() == text
    assert again.difference(spec) == []


def test_a_text_without_a_name_keeps_that_of_its_file(tmp_path: Path) -> None:
    spec = load_search(written(tmp_path, SPEC.replace("name: small\n", ""), "my search.yaml"))
    assert spec.name == "my-search"
    assert loads_search(spec.to_text(), "other.yaml").name == "my-search"


def test_runs_to_go_on_from_become_absolute_and_keep_their_names() -> None:
    text = changed(
        VALID[VALID.index("network:") : VALID.index("data:")], "network: {from: run, run: {choose: [r/a, r/b]}}\n"
    )
    spec = loads_search(text, "/data/s.yaml")
    assert spec.space.choices[0].domain.data()["ids"] == ["r/a", "r/b"]
    assert spec.trial({"network.run": "r/b"}).network.run == "/data/r/b"
    again = loads_search(spec.to_text(), "/else/s.yaml")
    assert again.trial({"network.run": "r/b"}).network.run == "/data/r/b"
    assert again.space.digest == spec.space.digest


# -- going on with a study


EMA = ['phases.1.ema: was nothing, is {"decay": 0.999, "warmup": true}']


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("trials: 7, sampler: random", "trials: 9, sampler: tpe, pruner: none, retries: 1", []),
        ("default: 0.1", "default: 0.2", []),
        ("batch_size: 64", "batch_size: 0x40", []),
        ("[1, 5]", "[1, 4]", ["phases.0.rules.0.grow.every: was int 1..5, is int 1..4"]),
        ("minimize: macs", "minimize: params", ['search.objectives.1.minimize: was "macs", is "params"']),
        ("batch_size: 64", "batch_size: 32", ["data.batch_size: was 64, is 32"]),
        ("    epochs: 20\n", "    epochs: 20\n    ema: {}\n", EMA),
    ],
)
def test_what_differs_from_an_earlier_search_is_told(old: str, new: str, sentences: list[str]) -> None:
    text = SPEC.replace("validation: 0.2", "validation: 0.2, batch_size: 64") + SECTION
    assert text.count(old) == 1
    assert loads_search(text.replace(old, new)).difference(loads_search(text)) == sentences


# -- the search section


def test_the_defaults_of_a_search() -> None:
    spec = loads_search(SPEC.replace("name: small", "name: small\nseed: 5"))
    assert (spec.trials, spec.seed, spec.search.timeout) == (20, 5, None)
    assert [(objective.metric, objective.direction) for objective in spec.search.objectives] == [
        ("val.accuracy", "maximize")
    ]
    assert (spec.search.sampler.kind, spec.search.pruner.kind, spec.search.axis.kind) == ("tpe", "none", "epoch")


def section(text: str) -> Search:
    search = loads_spec(VALID + f"search: {{{text}}}\n").search
    assert search is not None
    again = loads_spec(VALID + yaml.safe_dump({"search": search.plain()})).search
    assert again is not None and again.plain() == search.plain()
    return search


def test_amounts_with_units() -> None:
    assert section("timeout: 90 seconds").timeout == section("timeout: 1.5 minutes").timeout == 90
    assert section("timeout: 2 hours").timeout == section("timeout: 7200").timeout == 7200
    assert section("timeout: 1 day").timeout == 86400
    assert section("axis: {macs: 1T}").axis.width == section("axis: {macs: 1.0e+12}").axis.width == 1e12
    assert section("axis: {cpu_seconds: 10}").axis.kind == "cpu_seconds"
    assert section("axis: epoch").axis.width == 1
    assert section("reuse: {disk: 4 GB}").reuse.disk == 4 * 10**9
    assert section("reuse: {disk: 0.5 GiB}").reuse.disk == section("reuse: {disk: 536870912}").reuse.disk


@pytest.mark.parametrize(
    ("text", "metric", "upper", "bound", "value", "violation"),
    [
        ("macs <= 40M", "macs", True, 40e6, 50e6, 0.25),
        ("params<=1.2M", "params", True, 1.2e6, 1.2e6, 0),
        ("latency_ms <= 2.5", "latency_ms", True, 2.5, 2.0, -0.2),
        ("val.accuracy >= 0.8", "val.accuracy", False, 0.8, 0.6, 0.25),
        ("train.loss <= 0", "train.loss", True, 0, 0.3, 0.3),
        ("epochs <= 1K", "epochs", True, 1000, 500, -0.5),
    ],
)
def test_constraints(text: str, metric: str, upper: bool, bound: float, value: float, violation: float) -> None:
    [constraint] = section(f"constraints: ['{text}']").constraints
    assert constraint == Constraint(metric, upper, bound, text)
    assert constraint.violation(value) == pytest.approx(violation)


def test_equal_networks_are_trained_again_where_something_is_measured() -> None:
    assert section("objective: {minimize: macs}").caches_architectures
    assert not section("objective: {minimize: latency_ms}").caches_architectures
    assert not section("constraints: [cpu_seconds <= 9]").caches_architectures
    assert section("objective: {minimize: latency_ms}, reuse: {architectures: true}").caches_architectures
    assert not section("reuse: {architectures: false}").caches_architectures


def test_a_pruner_that_waits_names_the_one_that_decides() -> None:
    search = section("pruner: {patient: {of: {percentile: {percentile: 40}}, patience: 3}}")
    assert search.pruner.innermost.percentile is not None
    assert search.pruner.innermost.percentile.percentile == 40


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("sampler: nsga2", "search.sampler: nsga2 is made for several objectives; tpe needs fewer trials for one"),
        ("sampler: gp", "search.sampler: gp samples conditional choices at random: init, phases.0.rules.0.grow.every"),
        (
            "sampler: qmc",
            "search.sampler: qmc samples conditional choices at random: init, phases.0.rules.0.grow.every",
        ),
        ("pruner: wilcoxon", "search.pruner: wilcoxon takes epochs for independent samples, which they are not: it "),
        (
            "pruner: hyperband, axis: {cpu_seconds: 3}",
            "search.pruner: trials differ in length here, and hyperband takes that of the first that ends; give `max",
        ),
    ],
)
def test_what_a_sampler_or_pruner_cannot_do_well_is_noted(text: str, note: str) -> None:
    notes = [line.partition(": ")[2] for line in loads_search(f"{SPEC}search: {{{text}}}\n").notes]
    assert [line[: len(note)] for line in notes] == [note]


GROWING = VALID.replace("{try-this: {init: gaussian}}", "insert-block").replace(
    "epochs: 20", "epochs: {choose: [1, 2]}"
)
FIXED = re.sub("    rules:.*    until: all_frozen", "    epochs: 5", GROWING, flags=re.S)


@pytest.mark.parametrize(
    ("text", "old", "new", "constraint", "said"),
    [
        (GROWING, "", "", "macs <= 5M", "no trial can keep it: the smallest network has 8,831,296 MACs, and no rule"),
        (GROWING, "", "", "macs <= 8831295", "no trial can keep it"),
        (GROWING, "", "", "macs <= 8831296", None),
        (GROWING, "", "", "macs >= 90M", None),  # the rule may make it larger
        (GROWING, "do: insert-block", "do: {prune-channels: {fraction: 0.5}}", "macs <= 5M", None),
        (GROWING, "insert-block", "{choose: [insert-block, {prune-channels: {fraction: 0.5}}]}", "macs <= 5M", None),
        (GROWING, "basic, out: 16", "basic, out: {choose: [4, 16]}", "macs <= 8M", None),
        (GROWING, "basic, out: 16", "basic, out: {choose: [4, 16]}", "macs <= 1M", "the smallest network has"),
        (GROWING, "basic, out: 16", "basic, out: {choose: {int: [4, 16]}}", "macs <= 1M", None),  # not all are seen
        (FIXED, "", "", "params >= 9M", "no trial can keep it: the largest network has"),
        (FIXED, "", "", "params <= 9", "parameters; raise the bound, or make the network smaller"),
    ],
)
def test_a_bound_that_no_network_keeps_is_refused_where_that_is_certain(
    text: str, old: str, new: str, constraint: str, said: str | None, tmp_path: Path
) -> None:
    assert old in text
    path = written(tmp_path, f"{text.replace(old, new, 1)}search: {{constraints: [{constraint}]}}\n")
    if said is None:
        load_search(path)
        return
    with pytest.raises(SpecError, match=r"search\.constraints\.0") as caught:
        load_search(path)
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_a_grid_has_as_many_trials_as_points(tmp_path: Path) -> None:
    finite = SPEC.replace("float: [0.01, 1.0], log: true}, default: 0.1", "float: [0.1, 0.3], step: 0.1}")
    assert searched(tmp_path, finite + "search: {sampler: grid}\n").trials == 3 * (5 * 2 + 1)
    spec = searched(tmp_path, finite + "search: {sampler: grid, trials: 5}\n")
    assert spec.trials == 5
    assert spec.notes == (f"{tmp_path}/s.yaml:25:33: search.trials: 5 trials are not the whole grid of 33 points",)
    spec = searched(tmp_path, finite + "search: {trials: 50}\n")
    assert spec.notes == (f"{tmp_path}/s.yaml:25:18: search.trials: 50 trials, but the space has 33 points only",)


def test_a_giant_space_is_checked_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variants, "MOST", 50)
    lots = ", ".join(map(str, range(1, 70)))
    spec = searched(tmp_path, changed("epochs: 20", f"epochs: {{choose: [{lots}]}}"))
    assert spec.notes == (f"{tmp_path}/s.yaml:1:1: checked 50 of 69 alternatives",)


def test_each_alternative_is_written_out_once_to_find_those_that_are_given_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, written_out = choice_syntax._said, []

    def counted(tree: Tree) -> str:
        written_out.append(tree)
        return said(tree)

    monkeypatch.setattr(choice_syntax, "_said", counted)
    monkeypatch.setattr(variants, "MOST", 1)
    lots = ", ".join(map(str, range(1, 301)))
    searched(tmp_path, changed("epochs: 20", f"epochs: {{choose: [{lots}]}}"))
    assert len(written_out) == 300


# -- nasir check


def test_check_lists_the_space(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SPEC.replace("digits", "cifar10")  # whose images are as large as the input
    path = str(written(tmp_path, text + "search: {constraints: [macs <= 40M], pruner: median, timeout: 1 hour}\n"))
    assert main(["check", path]) == 0
    out = capsys.readouterr().out
    assert out.startswith(
        """\
small: correct

choice                       values             begins with  asked
lr                           float 0.01..1 log  0.1          always
rule                         grow | none        drawn        always
phases.0.rules.0.grow.every  int 1..5           3            where rule is grow
init                         zero | gaussian    drawn        where rule is grow
4 choices, a continuum of points

trials     20, for 3600 seconds at most
sampler    tpe
pruner     median
objective  maximize val.accuracy
constraint macs <= 40M
"""
    )
    assert "phase grow: 9 epochs; rules: try-this every 3" in out
    assert main(["check", path, "--json", "--set", "phases.0.optimizer.sgd.lr=1"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["size"] == 11
    assert [choice["name"] for choice in facts["space"]] == ["rule", "phases.0.rules.0.grow.every", "init"]
    assert facts["objectives"] == [{"metric": "val.accuracy", "direction": "maximize"}]
    assert facts["constraints"] == ["macs <= 40M"]
    assert facts["search"]["timeout"] == 3600


def test_check_prints_the_notes_of_a_search(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = SPEC.replace("digits", "cifar10") + "search: {sampler: gp}\n"
    assert main(["check", str(written(tmp_path, text))]) == 0
    assert "note: " in capsys.readouterr().err
    assert main(["check", str(written(tmp_path, SPEC.replace("[1, 5]", "[1, 1]")))]) == 2
    assert (
        "s.yaml:17:37: phases.0.rules.0.choose.cases.grow.every.choose.int: there is only 1" in capsys.readouterr().err
    )


# -- laws

SLOTS = {
    "lr: 0.1": (
        "lr",
        st.sampled_from([{"float": [0.01, 1], "log": True}, {"float": [0.1, 0.5], "step": 0.1}, [1, 0.3]]),
    ),
    "out: 32": ("out", st.sampled_from([{"int": [16, 64], "step": 16}, [16, 32], {"cases": {"s": 16, "l": 64}}])),
    "name: small": ("seed", st.sampled_from([{"int": [1, 3]}, [0, {"choose": {"int": [7, 9]}}]])),
    "epochs: 20": ("epochs", st.sampled_from([{"int": [1, 64], "log": True}, ["3 epochs", 4]])),
    "stride: 2": ("stride", st.sampled_from([{"cases": {"a": 1, "b": None, "c": 2}}, [1, None]])),
    "until: all_frozen": (
        "until",
        st.sampled_from([["all_frozen", {"at": {"choose": [3, 4]}}], [{"at": 1}, {"at": 2}]]),
    ),
}


@st.composite
def specs(draw: st.DrawFn) -> str:
    text = VALID
    for old in draw(st.lists(st.sampled_from(list(SLOTS)), min_size=1, unique=True)):
        key, values = SLOTS[old]
        assert text.count(old) == 1
        made = f"{key}: {json.dumps({'choose': draw(values)})}"
        text = text.replace(old, f"{old}\n{made}" if key == "seed" else made)
    return text


@settings(deadline=None, max_examples=60)
@given(specs(), st.data())
def test_every_point_is_a_spec_that_loads_back_equal(text: str, data: st.DataObject) -> None:
    spec = loads_search(text, "s.yaml")
    again = loads_search(spec.to_text(), "s.yaml")
    assert again.space.digest == spec.space.digest

    def suggest(choice: Any) -> Any:
        if choice.domain.size is None:
            return data.draw(st.floats(choice.domain.low, choice.domain.high))
        return data.draw(st.sampled_from(list(values_of(choice.domain))))

    values, made = spec.sample(suggest)
    stored = json.loads(json.dumps(values))
    assert spec.trial(stored).digest == again.trial(stored).digest == made.digest
    plain = made.to_yaml()
    assert loads_spec(plain).digest == made.digest
    assert made.search is None and "choose" not in plain
    assert spec.space.ask(lambda choice: stored[choice.name]) == stored


SEARCHED = yaml.safe_load(SPEC + SECTION)
ODD: list[Any] = [
    None,
    True,
    -1,
    0,
    2,
    0.5,
    1e300,
    "",
    "x",
    "3 epochs",
    "val.loss",
    [],
    [1],
    [1, 2],
    [1, 1],
    {},
    {"x": 1},
]
ODD += [
    [2, 1],
    [0, 1],
    {"int": [1, 3]},
    {"float": [0, 1], "log": True},
    {"cases": {"a": 1}},
    {"cases": {"a": None, "b": 2}},
]
ODD += [{"choose": odd} for odd in ODD]
KEYS = ["choose", "default", "name", "log", "step", "int", "float", "cases", "x", "trials", "sampler", "epochs", "when"]


def mutated(data: Any, draw: Any, depth: int = 0) -> Any:
    """`data` with one odd value somewhere, or one more key."""
    steps = list(data if isinstance(data, dict) else range(len(data))) if isinstance(data, dict | list) else []
    if not steps or (depth > 1 and draw(st.integers(0, 4)) == 0):
        return draw(st.sampled_from(ODD))
    if isinstance(data, dict) and draw(st.integers(0, 5)) == 0:
        return {**data, draw(st.sampled_from(KEYS)): draw(st.sampled_from(ODD))}
    step = draw(st.sampled_from(steps))
    changed_item = mutated(data[step], draw, depth + 1)
    if isinstance(data, dict):
        return {**data, step: changed_item}
    return [*data[:step], changed_item, *data[step + 1 :]]


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_value_in_any_place_is_a_search_or_a_spec_error_with_a_place(data: st.DataObject) -> None:
    tree: Any = SEARCHED
    for _ in range(data.draw(st.integers(1, 3))):
        tree = mutated(tree, data.draw)
        if not isinstance(tree, dict):
            return
    try:
        spec = loads_search(json.dumps(tree, indent=1), "s.yaml", thorough=True)
    except SpecError as error:
        assert all(line.startswith("s.yaml:") for line in str(error).splitlines())
    else:
        assert spec.trial(spec.space.base()).digest == spec.base.digest
        assert loads_search(spec.to_text(), "s.yaml").space.digest == spec.space.digest
        assert loads_spec(spec.base.to_yaml()).digest == spec.base.digest
