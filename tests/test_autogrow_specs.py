"""AutoGrow's specs: variants differ from their base in their data alone, baselines have the depths that were published
for the grown networks, and a small version of each runs to its end."""

from __future__ import annotations

import re
import shlex
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import nasir
from nasir.cli import main as cli
from nasir.spec import Spec, load_spec

SPECS = Path(__file__).parents[1] / "specs" / "autogrow"
NETS = ("basic3", "basic4", "plain3", "plain4")
SETS = ("cifar10", "cifar100", "svhn", "fashion_mnist", "mnist")
SCRATCH = sorted((SPECS / "scratch").glob("*.yaml"))
MORPHS = sorted(SPECS.glob("morph_*.yaml"))
PUBLISHED = re.compile(r"(?<!\d)\d+(?:-\d+){2,3}(?!\d)")


@cache
def shipped(path: Path) -> Spec:
    """The spec as it is: many tests look at the same ones."""
    return load_spec(path)


def grown(path: Path) -> Path:
    """The spec that grows the network that a baseline trains from scratch."""
    return (path.parent / yaml.safe_load(path.read_text())["extends"]).resolve()


@pytest.mark.parametrize("data", SETS[1:])
@pytest.mark.parametrize("net", NETS)
def test_a_variant_differs_in_its_data_alone(net: str, data: str) -> None:
    spec, base = shipped(SPECS / f"{net}_{data}.yaml"), shipped(SPECS / f"{net}.yaml")
    assert spec.data.dataset == data and spec.phases == base.phases
    grey = data.endswith("mnist")
    assert spec.input.shape == ((1, 32, 32) if grey else (3, 32, 32))
    assert spec.data.options == ({"pad_to": 32} if grey else {})
    plan = spec.data.plan()
    assert (plan.pad, plan.flips) == (4, data in ("cifar100", "fashion_mnist"))
    assert plan.batch_size == 128 and plan.validation == 5000
    graph, known = nasir.build(spec), nasir.build(base)
    assert graph.depths() == known.depths() and set(graph.depths().values()) == {1}
    assert graph.infer.types[graph.outputs[0]].shape == ((100,) if data == "cifar100" else (10,))


def test_there_is_a_baseline_for_each_network_and_data_set() -> None:
    wanted = {f"{net}_{data}" for net in NETS for data in SETS}
    wanted |= {"basic4_imagenet", "bottleneck4_imagenet", "plain4_imagenet"}
    assert {path.stem for path in SCRATCH} == wanted


@pytest.mark.parametrize("path", SCRATCH, ids=lambda path: path.stem)
def test_a_baseline_is_what_was_grown(path: Path) -> None:
    spec, base = shipped(path), shipped(grown(path))
    assert spec.data == base.data and spec.input == base.input
    [depths] = set(PUBLISHED.findall(path.read_text()))
    assert depths in PUBLISHED.findall(grown(path).read_text())
    assert "-".join(map(str, nasir.build(spec).depths().values())) == depths
    [phase], finetune = spec.phases, base.phases[-1]
    assert not phase.rules and phase.epochs == finetune.epochs
    assert phase.schedule_plan() == finetune.schedule_plan() and phase.optimizer_plan() == finetune.optimizer_plan()


@pytest.mark.parametrize("path", MORPHS, ids=lambda path: path.stem)
def test_growth_after_convergence_deepens_every_stage_at_once(path: Path) -> None:
    spec = shipped(path)
    _, net, before, after, init = path.stem.split("_")
    shallow, deep = spec.phases
    assert set(nasir.build(spec).depths().values()) == {int(before)}
    assert len(deep.rules) == int(after) - int(before) and not shallow.rules
    assert {rule.options["init"] for rule in deep.rules} == {init}
    assert {rule.where.order for rule in deep.rules} == {"all"}
    base = shipped(SPECS / f"{net}.yaml").phases[-1]
    for phase in (shallow, deep):
        assert phase.schedule_plan() == base.schedule_plan() and phase.optimizer_plan() == base.optimizer_plan()
    assert deep.reset_optimizer and shallow.epochs == deep.epochs == 200


# -- the tables and figures of the paper


def commands() -> list[list[str]]:
    """Words of every command in the section of docs/autogrow.md that has one for each of them."""
    page = (SPECS.parents[1] / "docs" / "autogrow.md").read_text()
    section = page.partition("## Tables and figures\n")[2].partition("\n## ")[0]
    written = [shlex.split(text) for text in re.findall(r"`(nasir [^`]+)`", section)]
    return [words for words in written if len(words) > 2]


def test_every_table_and_figure_has_a_row() -> None:
    page = (SPECS.parents[1] / "docs" / "autogrow.md").read_text()
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| ")]
    told = " ".join(row for row in rows if re.match(r" (its|table|figure)", row))
    for kind, last in (("table", 11), ("figure", 8)):
        for number in range(1, last + 1):
            assert re.search(rf"{kind}s? (\d+ and )?(\d+, )?{number}\b", told) or f"and {number}" in told, (
                kind,
                number,
            )


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_its_commands_pass_the_check(words: list[str]) -> None:
    _, command, what, *rest = words
    cli._parser().parse_args(words[1:])
    if command in ("plot", "report"):
        names = {shipped(path).name for path in SPECS.rglob("*.yaml")} | {"digits"}
        assert what.removeprefix("runs/") in names
        return
    settings = [value for flag, value in pairwise(rest) if flag == "--set"]
    spec = load_spec(SPECS.parents[1] / what, settings)
    assert not spec.notes and nasir.build(spec).cost().params > 0


# -- small versions


def small(path: Path) -> dict[str, Any]:
    """The spec with a sixteenth of its widths, two blocks a stage at most, an epoch for all lengths, and few images."""
    spec = load_spec(path).resolved()
    side = 64 if "imagenet" in str(path) or path.stem.startswith("bottleneck4") else spec["input"]["image"][1]
    spec["input"]["image"][1:] = [side, side]
    for step in spec["network"]:
        [(kind, options)] = step.items()
        if "out" in options:
            options["out"] = max(2, options["out"] // 16)
        if kind == "stage":
            options["depth"] = min(options["depth"], 2)
        if kind == "classifier":
            options["classes"] = 10
    data = spec["data"]
    options = {"classes": 10, "size": side, "channels": spec["input"]["image"][0], "train": 64, "test": 20}
    data.update(dataset="synthetic", options=options, batch_size=32, validation=20, subset=1.0)
    data["augment"] = [augmentation for augmentation in data["augment"] if "random_resized_crop" not in augmentation]
    spec.update(device="cpu", precision="fp32")
    for phase in spec["phases"]:
        if "epochs" in phase:
            phase["epochs"] = 1
        schedule = phase.get("schedule")
        if isinstance(schedule, dict) and "staircase" in schedule:
            schedule["staircase"].pop("restart", None)
            if "epochs" not in phase:
                phase["schedule"] = "constant"
        for rule in phase.get("rules", ()):
            if "every" in rule:
                rule["every"], rule["at_most"] = 1, 2
            if isinstance(rule.get("do"), dict) and "settle_epochs" in rule["do"].get("insert-block", {}):
                rule["do"]["insert-block"]["settle_epochs"] = 1
            if "freeze" in rule:
                rule["freeze"]["plateau"]["window"] = 1
    return spec


def of_its_own(path: Path) -> bool:
    """Whether its small version is no other spec's: data sets and periods are all the same in small, the rest is shown
    above to be so. c-AutoGrow's specs have a test of their own."""
    same = path.stem.endswith(SETS[1:]) or re.search(r"_k\d+$", path.stem)
    return not (same or path.stem.startswith("basic3_c_") or "cpu" in path.stem)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [path for path in sorted(SPECS.rglob("*.yaml")) if of_its_own(path)],
    ids=lambda path: "/".join(path.with_suffix("").parts[-2:]),
)
def test_a_small_version_runs_to_its_end(path: Path, tmp_path: Path) -> None:
    spec = small(path)
    run = nasir.run(nasir.loads_spec(yaml.safe_dump(spec)), out=tmp_path / "run")
    assert 0 <= run.metrics["test.accuracy"] <= 1
    stages = [options["depth"] for step in spec["network"] for kind, options in step.items() if kind == "stage"]
    rules = [rule for phase in spec["phases"] for rule in phase.get("rules", ())]
    grown = sum("when" in rule for rule in rules)
    limit = 2 if any("every" in rule for rule in rules) else None
    wanted = [limit if limit is not None else depth + grown for depth in stages]
    assert list(run.graph.depths().values()) == wanted
