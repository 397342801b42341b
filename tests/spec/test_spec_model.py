"""A checked spec: defaults, plans, digest, places, and what one part takes from another."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from spec_examples import VALID, changed

from nasir.errors import SpecError
from nasir.policy.plans import AtEpochs, Budget, PhasePlan, Plateau, RulePlan, Threshold, Where
from nasir.spec import Spec, load_spec, loads_spec
from nasir.spec.model_source import ImportedNetwork
from nasir.training.plans import AdaptiveClip, DataPlan, OptimizerPlan, ResizedCrop, SchedulePlan, TrainPlan


def test_the_resolved_spec_loads_back_equal() -> None:
    spec = loads_spec(VALID)
    again = loads_spec(spec.to_yaml())
    assert again.resolved() == spec.resolved()
    assert again.digest == spec.digest
    assert again.model_dump() == spec.model_dump()


def test_an_ordinary_yaml_dump_of_the_resolved_spec_loads_back_too() -> None:
    spec = loads_spec(VALID)
    assert loads_spec(yaml.safe_dump(spec.resolved())).digest == spec.digest


def test_shorthands_and_their_long_forms_are_the_same_spec() -> None:
    long = changed("every: 3 epochs", "every: 3").replace("staircase: {at", "staircase: {factor: 1e-1, at")
    long = long.replace("do: {try-this: {init: gaussian}}", 'do: {"try-this": {"init": "gaussian"}}')
    assert loads_spec(long).digest == loads_spec(VALID).digest


def test_the_digest_changes_with_any_value_and_not_with_comments_or_order() -> None:
    spec = loads_spec(VALID)
    assert loads_spec("# note\n" + VALID).digest == spec.digest
    assert loads_spec(changed("name: small\n", "") + "name: small\n").digest == spec.digest
    assert loads_spec(changed("lr: 0.1", "lr: 0.2")).digest != spec.digest


def test_the_digest_does_not_depend_on_the_folder_of_a_plugin(tmp_path: Path) -> None:
    digests = set()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        file = tmp_path / folder / "s.yaml"
        file.write_text("plugins: [./mine.py]\n" + VALID)
        digests.add(load_spec(file).digest)
    assert len(digests) == 1


def test_a_phase_becomes_the_plan_of_the_policy() -> None:
    rule = RulePlan(
        name="grow.rules.0",
        pass_name="try-this",
        options={"init": "gaussian"},
        every=3,
        where=Where(),
        freeze=Plateau("val.accuracy", 10, 0.01, "running_max", 0.95),
    )
    assert loads_spec(VALID).phases[0].plan() == PhasePlan("grow", rules=(rule,), until="all_frozen")
    assert loads_spec(VALID).phases[1].plan() == PhasePlan("finetune", epochs=20)


def test_a_phase_becomes_the_plan_of_the_backend() -> None:
    spec = loads_spec(VALID)
    optimizer = OptimizerPlan("sgd", lr=0.1)
    assert spec.phases[0].training(spec) == TrainPlan(optimizer)
    assert spec.phases[1].training(spec).schedule == SchedulePlan("staircase", at=(0.5, 0.75))


def test_a_phase_without_an_optimizer_goes_on_with_the_one_before() -> None:
    spec = loads_spec(VALID)
    assert spec.phases[1].optimizer_plan() == OptimizerPlan("sgd", lr=0.1)
    assert spec.resolved()["phases"][1]["optimizer"] == spec.resolved()["phases"][0]["optimizer"]


def test_the_data_becomes_the_plan_of_the_backend() -> None:
    text = changed("validation: 0.2", "validation: 9, augment: [hflip, pad_crop: {pad: 2}], options: {path: x}")
    spec = loads_spec(text.replace("name: small", "name: small\nseed: 7"))
    assert spec.data.plan() == DataPlan(
        "digits", {"path": "x"}, augment=({"hflip": {}}, {"pad_crop": {"pad": 2}}), validation=9, seed=7
    )


def test_random_resized_crop_is_read_and_checked() -> None:
    def read(text: str) -> DataPlan:
        return loads_spec(changed("validation: 0.2", f"augment: [{text}]")).data.plan()

    assert read("random_resized_crop").resized_crop == ResizedCrop()
    assert read("random_resized_crop: {size: 9, scale: [0.2, 1]}").resized_crop == ResizedCrop(9, (0.2, 1.0))
    for text, message in (
        ("random_resized_crop: {scale: [0.9, 0.1]}", "write the smaller number first"),
        ("random_resized_crop: {scale: [0.9, 2]}", "shares of at most 1"),
        ("random_resized_crop: {ratio: [1]}", "give at least 2"),
        ("random_resized_crop, pad_crop", "keep one of pad_crop and random_resized_crop"),
    ):
        with pytest.raises(SpecError, match=message):
            read(text)


def test_the_defaults_of_the_models_are_those_of_the_plans() -> None:
    spec = loads_spec(
        changed(", validation: 0.2", ", validation: 0").replace("{window: 10,", "{metric: lr, window: 10,")
    )
    assert spec.data.plan() == DataPlan("digits")
    assert spec.phases[0].training(spec) == TrainPlan()
    adam = loads_spec(changed("{sgd: {lr: 0.1}}", "{adam: {lr: 0.1}}"))
    assert adam.phases[0].optimizer_plan() == OptimizerPlan("adam")


CONDITIONS = [
    ("{at: [3, 9 epochs]}", AtEpochs((3, 9))),
    ("{at: 4}", AtEpochs((4,))),
    ("{above: {metric: train.accuracy, value: 0.9}}", Threshold("train.accuracy", above=0.9)),
    ("{below: {metric: val.loss, value: 1}}", Threshold("val.loss", below=1)),
    ("{plateau: {metric: val.loss, smooth: ema, decay: 0.5}}", Plateau("val.loss", 100, 0.0005, "ema", 0.5)),
    ("plateau", Plateau()),
]


@pytest.mark.parametrize(("text", "condition"), CONDITIONS)
def test_conditions(text: str, condition: object) -> None:
    for old, new in (
        ("freeze: {plateau: {window: 10, less_than: 0.01}}", f"freeze: {text}"),
        ("until: all_frozen", f"until: {text}"),
        ("- every: 3 epochs", f"- when: {text}"),
    ):
        text_of_it = changed(old, new)
        if "when:" in new:  # beside a plateau of `when`, `freeze` judges what was made
            text_of_it = text_of_it.replace("freeze: {plateau: {", "freeze: {plateau: {since: rule, ")
        plan = loads_spec(text_of_it).phases[0].plan()
        assert condition in (plan.rules[0].freeze, plan.until, plan.rules[0].when)


def test_everything_a_rule_can_say() -> None:
    where = "where: {stages: [s2], order: random, count: 2}"
    text = "\n        ".join([where, "at_most: 5", "budget: {macs: 1e6}", "freeze:"])
    rule = loads_spec(changed("freeze:", text)).phases[0].plan().rules[0]
    assert rule.where == Where(("s2",), "random", 2)
    assert rule.at_most == 5
    assert rule.budget == Budget(macs=1e6)


def test_everything_a_phase_can_say() -> None:
    text = """epochs: 20
    warmup: {epochs: 0.5 epochs, start: 0.1}
    gradient_clip: 1
    adaptive_clip: 0.02
    label_smoothing: 0.1
    ema: {decay: 0.9}
    reset_optimizer: true
    budget: {seconds: 60, epochs: 10 epochs}
    optimizer: {sgd: {lr: 1, nesterov: true, decay_norms: false}}"""
    spec = loads_spec(changed("epochs: 20", text) + "precision: bf16\nchannels_last: true\n")
    plan = spec.phases[1].training(spec)
    schedule = SchedulePlan("staircase", at=(0.5, 0.75), warmup=0.5, warmup_start=0.1)
    optimizer = OptimizerPlan("sgd", lr=1, nesterov=True, decay_norms=False)
    assert plan == TrainPlan(
        optimizer, schedule, 128, 1, 0.1, 0.9, "bf16", True, True, adaptive_clip=AdaptiveClip(0.02)
    )
    assert spec.phases[1].plan().budget == Budget(seconds=60, epochs=10)


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("constant", SchedulePlan()),
        ("cosine", SchedulePlan("cosine")),
        ("{cosine: {floor: 0.1, restart: 4 epochs}}", SchedulePlan("cosine", floor=0.1, restart=4)),
        ("{staircase: {at: 0.5}}", None),
    ],
)
def test_schedules(text: str, plan: SchedulePlan | None) -> None:
    changed_text = changed("{staircase: {at: [0.5, 0.75]}}", text)
    if plan is None:
        with pytest.raises(SpecError, match="expected a list"):
            loads_spec(changed_text)
    else:
        assert loads_spec(changed_text).phases[1].schedule_plan() == plan


def test_a_schedule_that_restarts_needs_no_length() -> None:
    text = changed("until: all_frozen", "until: all_frozen\n    schedule: {cosine: {restart: 5}}")
    assert loads_spec(text).phases[0].schedule_plan().restart == 5


def test_steps_keep_their_kind_options_and_label() -> None:
    steps = "- conv_bn_relu: {out: 16, kernel: 5, label: stem}\n  - relu\n  - gelu:\n  - dropout: {p: 0.1}\n"
    spec = loads_spec(changed("- conv_bn_relu: {out: 16}\n", steps))
    kept = [(step.kind, step.options, step.label, step.builtin) for step in spec.steps[:4]]
    assert kept == [
        ("conv_bn_relu", {"out": 16, "kernel": 5, "stride": 1}, "stem", True),
        ("relu", {}, None, True),
        ("gelu", {}, None, False),
        ("dropout", {"p": 0.1}, None, True),
    ]


def test_a_stage_keeps_the_options_of_its_block() -> None:
    spec = loads_spec(changed("out: 32, stride: 2}", "out: 32, stride: 2, groups: 4, width: {a: [1]}}"))
    own = {"groups": 4, "width": {"a": [1]}}
    assert spec.steps[2].options == {"name": "s2", "block": "basic", "out": 32, "depth": 1, "stride": 2, **own}


def test_a_network_can_be_imported() -> None:
    start, end = VALID.index("network:"), VALID.index("data:")
    text = VALID[:start] + "network: {from: torchvision, model: resnet18, classes: 10}\n" + VALID[end:]
    spec = loads_spec(text)
    assert spec.network == ImportedNetwork(source="torchvision", model="resnet18", classes=10)
    assert spec.resolved()["network"] == {"from": "torchvision", "model": "resnet18", "classes": 10}
    assert loads_spec(spec.to_yaml()).network == spec.network
    with pytest.raises(
        SpecError, match=r"s.yaml:4:17: network.from: unknown value 'keras'; known: torchvision, timm, module, run"
    ):
        loads_spec(text.replace("torchvision", "keras"), "s.yaml")


def test_an_input_can_be_a_vector() -> None:
    assert loads_spec(changed("{image: [3, 32, 32]}", "{vector: [64]}")).input.shape == (64,)
    assert loads_spec(changed("{image: [3, 32, 32]}", "{vector: 64}")).input.shape == (64,)
    assert loads_spec(VALID).input.shape == (3, 32, 32)


def test_only_images_are_augmented() -> None:
    text = changed("{image: [3, 32, 32]}", "{vector: 64}").replace("0.2}", "0.2, augment: [hflip]}")
    with pytest.raises(SpecError, match=r"s.yaml:9:51: data.augment: only images can be augmented"):
        loads_spec(text, "s.yaml")


def test_the_name_defaults_to_that_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "my spec (2).yaml"
    file.write_text(changed("name: small\n", ""))
    assert load_spec(file).name == "my-spec-2"
    assert load_spec(file).source == file


def test_errors_of_the_graph_are_told_at_the_step_they_are_about(tmp_path: Path) -> None:
    spec = loads_spec(VALID, "s.yaml")
    assert spec.locate(("network", 2, "stage", "out")) == "s.yaml:7:42"
    assert spec.locate(("network", 2, "stage", "depth")) == "s.yaml:7:12"
    assert spec.locate(()) == "s.yaml:1:1"
    error = spec.problem(("network", 2, "stage", "out"), "32 channels do not fit", "use 16")
    assert isinstance(error, SpecError)
    assert str(error) == "s.yaml:7:42: network.2.stage.out: 32 channels do not fit; use 16"


def test_places_in_an_extended_file_and_in_overrides(tmp_path: Path) -> None:
    base, top = tmp_path / "base.yaml", tmp_path / "top.yaml"
    base.write_text(VALID)
    top.write_text("extends: base.yaml\nname: top\n")
    spec = load_spec(top, ["data.batch_size=32"])
    assert spec.name == "top"
    assert spec.data.batch_size == 32
    assert spec.locate(("network", 0)) == f"{base}:5:5"
    assert spec.locate(("name",)) == f"{top}:2:7"
    assert spec.locate(("data", "batch_size")) == "--set data.batch_size=32"


def test_errors_name_the_extended_file_or_the_override(tmp_path: Path) -> None:
    base, top = tmp_path / "base.yaml", tmp_path / "top.yaml"
    base.write_text(changed("classes: 10", "classes: 1"))
    top.write_text("extends: base.yaml\nnam: top\n")
    with pytest.raises(SpecError) as caught:
        load_spec(top, ["data.batch_size=0", "phases.0.optimizer.adam.lr=1", "dat.x=1"])
    assert str(caught.value).splitlines() == [
        "--set dat.x=1: dat: unknown key; did you mean 'data'?",
        "--set data.batch_size=0: data.batch_size: must be at least 1, found 0; use a value at least 1",
        "--set phases.0.optimizer.adam.lr=1: phases.0.optimizer.adam: expected one key, found sgd and adam; "
        "keep one; `key: null` takes out one that an extended spec brings in",
        f"{base}:8:27: network.3.classifier.classes: must be at least 2, found 1; use a value at least 2",
        f"{top}:2:1: nam: unknown key; did you mean 'name'?",
    ]


def test_null_takes_out_what_an_extended_spec_brings_in(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(VALID)
    top = tmp_path / "top.yaml"
    top.write_text("extends: base.yaml\ninput: {image: null, vector: 8}\n")
    assert load_spec(top).input.shape == (8,)


def test_a_rule_that_can_never_fire_is_noted() -> None:
    spec = loads_spec(changed("    until: all_frozen\n", "    epochs: 2\n"), "s.yaml")
    assert spec.notes == ("s.yaml:14:16: the rule acts every 3 epochs, the phase has only 2",)
    spec = loads_spec(changed("    until: all_frozen\n", "    until: {at: 30}\n    epochs: 9\n"), "s.yaml")
    assert spec.notes == ("s.yaml:17:17: epoch 30 is after the end of the phase (9 epochs)",)


def paths(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [path, *(inner for key, below in items for inner in paths(below, (*path, key)))]


TREE: dict[str, Any] = yaml.safe_load(VALID)
VALUES = [None, True, -1, 0, 2, 0.5, 1e300, "", "x", "3 epochs", "s1", "all", [], [1], [{}], {}, {"x": 1}, {"sgd": {}}]
VALUES += [
    {"choose": [1]},
    {"plateau": None},
    {"at": []},
    {"try-this": {"choose": 1}},
    {"try-needy": None},
    [None, "a"],
]


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_any_value_in_any_place_is_a_spec_or_a_spec_error_with_a_place_and_a_remedy(data: st.DataObject) -> None:
    tree = deepcopy(TREE)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(paths(tree)[1:]))
        value = deepcopy(data.draw(st.sampled_from(VALUES)))
        owner: Any = tree
        for step in path[:-1]:
            owner = owner[step]
        if isinstance(owner, dict) and data.draw(st.booleans()):
            owner[
                data.draw(st.sampled_from(["x", "label", "freeze", "when", "where", "budget", "until", "epochs"]))
            ] = value
        else:
            owner[path[-1]] = value
    try:
        spec = loads_spec(json.dumps(tree, indent=1), "s.yaml")
    except SpecError as error:
        for line in str(error).splitlines():
            assert line.startswith("s.yaml:")
            assert "; " in line
    else:
        assert loads_spec(spec.to_yaml()).digest == spec.digest
        assert all(phase.plan() and phase.training(spec) for phase in spec.phases)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**40),
    st.lists(st.floats(1e-3, 0.999), min_size=1, max_size=4, unique=True).map(sorted),
    st.sampled_from([True, False, "auto"]),
    st.floats(1e-12, 1e12),
    st.one_of(st.integers(1, 10**6), st.floats(0, 0.999)),
)
def test_generated_specs_load_back_equal(
    seed: int, at: list[float], channels: Any, lr: float, validation: int | float
) -> None:
    data = deepcopy(TREE)
    data |= {"seed": seed, "channels_last": channels}
    data["data"]["validation"] = validation or 1
    data["phases"][1]["schedule"] = {"staircase": {"at": at}}
    data["phases"][0]["optimizer"] = {"adamw": {"lr": lr}}
    spec = loads_spec(yaml.safe_dump(data))
    again: Spec = loads_spec(spec.to_yaml())
    assert again.model_dump() == spec.model_dump()
    assert again.resolved() == spec.resolved()
    assert again.phases[1].training(again) == spec.phases[1].training(spec)
