"""From specs to graphs: golden counts, torchvision's names, and errors that point at the line."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path

import pytest
import torch
import torchvision

from nasir.errors import SpecError
from nasir.ir import Graph
from nasir.running.dry_run import simulate_spec
from nasir.spec import Spec, load_spec, loads_spec
from nasir.spec.model_source import RunNetwork
from nasir.spec.network import build, initial_plan
from nasir.spec.search import load_any
from nasir.transfer import Key

THREE, FOUR = (16, 32, 64), (64, 128, 256, 512)

HEAD = "nasir: 1\ninput: {image: [%s]}\n"
TAIL = "data: {dataset: digits}\nphases:\n  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"


def spec_of(network: str, image: str = "3, 32, 32", more: str = "") -> Spec:
    return loads_spec(HEAD % image + more + f"network: {network}\n" + TAIL, "net.yaml")


def imported(model: str, size: int = 224, classes: int | None = None) -> Graph:
    chosen = "" if classes is None else f", classes: {classes}"
    return build(spec_of(f"{{from: torchvision, model: {model}{chosen}}}", f"3, {size}, {size}"))


def cifar(block: str, widths: tuple[int, ...], depths: tuple[int, ...], classes: int = 10, more: str = "") -> Graph:
    steps = [f"conv_bn_relu: {{out: {widths[0]}}}"]
    for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
        stride = 2 if index else 1
        steps.append(f"stage: {{name: s{index}, block: {block}, out: {width}, depth: {depth}, stride: {stride}{more}}}")
    steps.append(f"classifier: {{classes: {classes}}}")
    return build(spec_of("".join(f"\n  - {step}" for step in steps)))


# torchvision's models at 1000 classes: params, MACs at 224 and 128; at 20 classes: params, MACs at 128
TORCHVISION = {
    "resnet18": (11_689_512, 1_814_073_344, 592_695_296, 11_186_772, 592_193_536),
    "resnet34": (21_797_672, 3_663_761_408, 1_196_675_072, 21_294_932, 1_196_173_312),
    "resnet50": (25_557_032, 4_089_184_256, 1_336_623_104, 23_549_012, 1_334_616_064),
    "resnet101": (44_549_160, 7_801_405_440, 2_548_776_960, 42_541_140, 2_546_769_920),
    "resnet152": (60_192_808, 11_513_626_624, 3_760_930_816, 58_184_788, 3_758_923_776),
}


@pytest.mark.parametrize("model", TORCHVISION)
def test_counts_of_torchvision(model: str) -> None:
    params, macs_224, macs_128, params_20, macs_20 = TORCHVISION[model]
    large, small, few = imported(model).cost(), imported(model, 128).cost(), imported(model, 128, 20).cost()
    assert (large.params, large.macs) == (params, macs_224)
    assert (small.params, small.macs) == (params, macs_128)
    assert (few.params, few.macs) == (params_20, macs_20)


CIFAR = [
    ("basic", THREE, (3, 3, 3), 272_474, 40_813_184),
    ("basic", THREE, (1, 1, 1), 78_042, 12_501_632),
    ("basic", THREE, (5, 5, 5), 466_906, 69_124_736),
    ("basic", THREE, (9, 9, 9), 855_770, 125_747_840),
    ("basic", THREE, (42, 42, 42), 4_063_898, 592_888_448),
    ("plain", THREE, (1, 1, 1), 26_682, 5_161_600),
    ("plain", THREE, (23, 22, 22), 1_049_786, 156_156_544),
    ("basic", FOUR, (1, 1, 1, 1), 4_903_242, 253_432_832),
    ("basic", FOUR, (2, 2, 2, 2), 11_173_962, 555_422_720),
    ("basic", FOUR, (22, 22, 22, 22), 136_588_362, 6_595_220_480),
    ("plain", FOUR, (1, 1, 1, 1), 1_594_058, 96_146_432),
    ("plain", FOUR, (17, 17, 17, 17), 51_759_818, 2_512_065_536),
    ("bottleneck", FOUR, (1, 1, 1, 1), 8_028_746, 442_191_872),
    ("bottleneck", FOUR, (3, 4, 6, 3), 23_520_842, 1_297_829_888),
]


@pytest.mark.parametrize(("block", "widths", "depths", "params", "macs"), CIFAR)
def test_counts_on_small_images(
    block: str, widths: tuple[int, ...], depths: tuple[int, ...], params: int, macs: int
) -> None:
    graph = cifar(block, widths, depths)
    cost = graph.cost()
    assert (cost.params, cost.macs) == (params, macs)
    assert tuple(graph.depths().values()) == depths


def test_counts_of_special_cases() -> None:
    option_a = cifar("basic", THREE, (3, 3, 3), more=", shortcut: pad").cost()
    assert (option_a.params, option_a.macs) == (269_722, 40_551_040)  # ResNet-20 as published
    deep = cifar("basic", THREE, (54, 53, 53), classes=100).cost()
    assert (deep.params, deep.macs) == (5_143_796, 753_326_336)


@pytest.mark.parametrize("model", [*TORCHVISION, "resnext50_32x4d", "wide_resnet50_2"])
def test_state_dict_of_torchvision_fits_without_a_key_map(model: str) -> None:
    with torch.device("meta"):
        theirs = {name: tuple(value.shape) for name, value in getattr(torchvision.models, model)().state_dict().items()}
    graph = imported(model)
    ours = {
        f"{graph.nodes[node_id].label}.{name}": slot.shape
        for node_id, slots in graph.infer.slots.items()
        for name, slot in slots.items()
    }
    assert ours == theirs
    assert [stage.path for stage in graph.stages] == ["layer1", "layer2", "layer3", "layer4"]


def test_network_of_torchvision_computes_what_torchvision_computes() -> None:
    from nasir.backends.torch import Model

    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=7).eval()
    ours = Model.from_graph(imported("resnet18", 64, 7)).eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_small_stem_is_the_cifar_variant() -> None:
    graph = imported("resnet18_cifar", 32, 10)
    cost = graph.cost()
    assert (cost.params, cost.macs) == (11_173_962, 555_422_720)
    assert graph.digest == cifar("basic", FOUR, (2, 2, 2, 2)).digest


def rules(graph: Graph, spec: Spec) -> set[tuple[str, str, str]]:
    plan = initial_plan(graph, spec)
    assert set(plan.sources) == {Key(node, slot) for node, slots in graph.infer.slots.items() for slot in slots}
    return {(graph.nodes[key.node].op, key.slot, source.rule) for key, source in plan.sources.items()}  # type: ignore[union-attr]


STEPS = "\n  - conv: {out: 4}\n  - stage: {name: s, block: basic, out: 4}\n  - classifier: {classes: 3}"


def test_init_chooses_the_rule_of_every_weight() -> None:
    default = spec_of(STEPS)
    assert ("conv2d", "weight", "kaiming_uniform") in rules(build(default), default)
    he = spec_of(STEPS, more="init: he_normal\n")
    graph = build(he)
    used = rules(graph, he)
    assert ("conv2d", "weight", "kaiming_normal") in used
    assert ("linear", "weight", "kaiming_uniform") in used
    assert ("conv2d", "weight", "kaiming_uniform") not in used
    assert [graph.regions[path].template["init"] for path in ("s", "s.0")] == ["he_normal"] * 2  # type: ignore[index]
    glorot = spec_of(STEPS, more="init: glorot_uniform\n")
    used = rules(build(glorot), glorot)
    assert {("conv2d", "weight", "xavier_uniform"), ("linear", "bias", "zeros")} <= used
    tv = spec_of("{from: torchvision, model: resnet18}", "3, 64, 64")
    assert ("conv2d", "weight", "kaiming_normal") in rules(build(tv), tv)


def test_labels_are_numbered_and_may_be_given() -> None:
    steps = "\n  - conv_bn_relu: {out: 4}\n  - conv_bn_relu: {out: 4, label: stem}\n  - max_pool: {}\n  - dropout\n"
    steps += "  - conv: {out: 4, label: last}\n  - gelu\n  - classifier: {classes: 3, dropout: 0.1}"
    graph = build(spec_of(steps))
    assert [graph.nodes[node_id].label for node_id in graph.order] == [
        *("x", "conv1", "bn1", "relu1", "stem.conv", "stem.bn", "stem.relu", "maxpool1", "dropout1"),
        *("last", "gelu1", "dropout2", "avgpool", "fc"),
    ]
    dropout = graph.find("dropout2")
    assert graph.nodes[graph.find("avgpool")].inputs[0].node == dropout, "dropout lies before the pooling"


def test_vectors_need_no_pooling() -> None:
    spec = loads_spec(
        "nasir: 1\ninput: {vector: 8}\nnetwork: [{linear: {out: 5}}, relu, {classifier: {classes: 3}}]\n" + TAIL
    )
    graph = build(spec)
    assert [graph.nodes[node_id].label for node_id in graph.order] == ["x", "linear1", "relu1", "fc"]
    assert graph.cost().params == 8 * 5 + 5 + 5 * 3 + 3


def test_blocks_of_vectors() -> None:
    spec = loads_spec(
        "nasir: 1\ninput: {vector: 8}\nblocks: {b: {branch: [{linear: {out: out}}, relu], shortcut: projection}}\n"
        "network: [{stage: {name: s, block: b, out: 6, depth: 2}}, {classifier: {classes: 3}}]\n" + TAIL
    )
    graph = build(spec)
    assert graph.cost("s.0").params == 8 * 6 + 6 + 8 * 6 + 12
    assert graph.cost("s.1").params == 6 * 6 + 6


DEFINED = """
blocks:
  mine:
    branch:
      - conv_bn_relu: {out: out, kernel: 3, stride: stride}
      - conv_bn: {out: out, kernel: 3}
    shortcut: projection
    then: [relu]
"""


def test_block_of_the_spec_is_written_out_in_the_regions() -> None:
    steps = "\n  - conv_bn_relu: {out: 4}\n  - stage: {name: s, block: %s, out: 8, depth: 2, stride: 2}\n"
    steps += "  - classifier: {classes: 3}"
    mine = build(spec_of(steps % "mine", more=DEFINED.lstrip()))
    basic = build(spec_of(steps % "basic"))
    assert mine.digest == basic.digest
    assert mine.regions["s"].template["block"]["shortcut"] == "projection"  # type: ignore[index]
    assert Graph.from_json(mine.to_json()) == mine


def test_a_block_may_stand_alone() -> None:
    steps = "[{conv: {out: 4}}, {basic: {out: 8, stride: 2}}, {mine: {out: 8}}, {classifier: {classes: 3}}]"
    graph = build(spec_of(steps, more=DEFINED.lstrip()))
    assert [block.path for block in graph.blocks] == ["basic1", "mine1"]
    assert graph.stages == ()


STILL = "blocks: {still: {branch: [{conv: {out: out}}], shortcut: none}}\n"
WRONG = [
    ("[{conv: {out: 4, kernel: 40, padding: 0}}]", "", "network.0.conv", "too small"),
    ("[{conv: {out: 4}}]", "", "network.0.conv", "classifier"),
    ("[{linear: {out: 4}}]", "", "network.0.linear", "needs a vector"),
    ("[{relu6x: {}}]", "", "network.0.relu6x", "relu6x"),
    ("[{gelu: {slope: 2}}]", "", "network.0.gelu", "slope: unknown option; known: approximate"),
    ("[add]", "", "network.0", "not one input"),
    ("[{group_norm: {groups: 2}}]", "", "network.0.group_norm", "must divide"),
    ("[{stage: {name: s, block: basik, out: 4}}]", "", "network.0.stage", "did you mean 'basic'?"),
    ("[{stage: {name: s, block: basic, out: 4, shortcut: pat}}]", "", "network.0.stage", "did you mean 'pad'?"),
    ("[{stage: {name: s, block: basic, out: 4, wide: 2}}]", "", "network.0.stage", "wide: unknown option; known: out"),
    (
        "[{stage: {name: s, block: basic, out: 4, norm: 3}}]",
        "",
        "network.0.stage",
        "unknown value 3; known: batch, none",
    ),
    ("[{stage: {name: s, block: mine, out: 4, norm: none}}]", DEFINED.lstrip(), "network.0.stage", "unknown option"),
    ("[{stage: {name: s, block: basic, out: 2, shortcut: pad}}]", "", "network.0.stage", "cannot pad 3 channels to 2"),
    ("[{stage: {name: s, block: basic, out: 4, shortcut: identity}}]", "", "network.0.stage", "identity shortcut"),
    ("{from: torchvision, model: resnet19}", "", "network.model", "did you mean"),
    (STEPS, "init: he_norm\n", "init", "did you mean 'he_normal'?"),
    (STEPS, "blocks: {b: {branch: [relu], shortcat: pad}}\n", "blocks.b.shortcat", "did you mean 'shortcut'?"),
    (STEPS, "blocks: {b: {shortcut: pad}}\n", "blocks.b", "needs a branch"),
    (STEPS, "blocks: {b: {branch: [relu, 3]}}\n", "blocks.b.branch.1", "expected one step"),
    (STEPS, "blocks: {b: {branch: [relu], shortcut: bad}}\n", "blocks.b.shortcut", "unknown shortcut"),
    ("[{stage: {name: s, block: basic, out: 4, label: t}}]", "", "network.0.stage.label", "no label"),
    ("[{stage: {name: s, block: still, out: 4, stride: 2}}]", STILL, "network.0.stage", "`stride: stride`"),
    ("[{conv: {out: 4, label: a}}, {conv: {out: 4, label: a}}]", "", "network.1.conv", "two nodes"),
    (STEPS, "blocks: {gelu: {branch: [relu]}}\n", "blocks.gelu", "is a step already"),
    (STEPS, "blocks: {b: 3}\n", "blocks.b", "a block is a mapping"),
]


@pytest.mark.parametrize(("network", "more", "path", "text"), WRONG)
def test_errors_name_the_line_and_the_path(network: str, more: str, path: str, text: str) -> None:
    with pytest.raises(SpecError) as caught:
        build(spec_of(network, more=more))
    message = str(caught.value)
    assert text in message
    line = next(line for line in message.splitlines() if text in line)
    assert line.startswith("net.yaml:") and f": {path}" in line
    assert line.split(":")[1].isdigit() and line.split(":")[2].isdigit()


def test_an_impossible_step_is_found_at_its_line() -> None:
    steps = "\n  - max_pool: {kernel: 8}\n  - max_pool: {kernel: 8}\n  - classifier: {classes: 3}"
    with pytest.raises(SpecError, match=r"^net\.yaml:5:\d+: network\.1\.max_pool: .*too small"):
        build(spec_of(steps))


def shipped() -> list[str]:
    with as_file(files("nasir.specs")) as root:
        return sorted(str(path.relative_to(root)) for path in root.rglob("*.yaml"))


@pytest.mark.parametrize("name", shipped())
def test_shipped_specs_load_and_build(name: str) -> None:
    with as_file(files("nasir.specs")) as root:
        path = Path(root) / name
        spec = load_any(path)[0]  # of a search, with the values that it begins with
        # one that goes on from another run needs that run
        graph = None if isinstance(spec.network, RunNetwork) else build(spec)
    assert all(len(line) <= 120 for line in path.read_text().splitlines())
    assert not spec.notes
    again = loads_spec(spec.to_yaml())
    assert again.digest == spec.digest
    assert graph is None or (graph.cost().params > 0 and build(again) == graph)


AUTOGROW = {"basic3": 3, "basic4": 4, "plain3": 3, "plain4": 4, "bottleneck4": 4}


@pytest.mark.parametrize("name", AUTOGROW)
def test_autogrow_specs_have_the_published_numbers(name: str) -> None:
    with as_file(files("nasir.specs")) as root:
        spec = load_spec(root / "autogrow" / f"{name}.yaml")
    grow, finetune = (phase.plan() for phase in spec.phases)
    [rule] = grow.rules
    imagenet = name == "bottleneck4"
    assert rule.every == (2 if imagenet else 3)
    assert (rule.freeze.window, rule.freeze.less_than, rule.freeze.smooth) == (  # type: ignore[union-attr]
        30 if imagenet else 100,
        0.0005,
        "running_max",
    )
    assert rule.at_most == 200 and len(rule.where.stages) == AUTOGROW[name]
    assert finetune.epochs == (90 if imagenet else 200)
    plans = [phase.optimizer_plan() for phase in spec.phases]
    assert {(plan.kind, plan.momentum) for plan in plans} == {("sgd", 0.9)}
    assert {plan.lr for plan in plans} == {0.01 if name.startswith("plain") else 0.1}
    assert {plan.weight_decay for plan in plans} == {1e-4 if imagenet else 5e-4}
    assert spec.data.batch_size == (256 if imagenet else 128)
    assert not any(phase.reset_optimizer for phase in spec.phases), "momentum is carried by name"
    staircase = spec.phases[1].schedule_plan()
    drops = [1, 2] if imagenet else [2, 3]
    of = 3 if imagenet else 4
    steps = 7
    for drop, multiplier in zip(drops, (0.1, 0.01), strict=True):
        step = finetune.epochs * steps * drop // of  # type: ignore[operator]
        assert staircase.multiplier(step, steps, finetune.epochs) == pytest.approx(multiplier)
        assert staircase.multiplier(step - 1, steps, finetune.epochs) == pytest.approx(multiplier * 10)


FLOORS = {  # depths at which the stop rule leaves a flat accuracy curve, and the epochs of growth
    "basic3": ("13-13-12", 108),
    "basic4": ("10-10-10-10", 111),
    "bottleneck4": ("6-6-5-5", 38),
    "basic3_k1": ("35-35-35", 103),
    "basic3_k5": ("9-8-8", 115),
    "basic3_k10": ("5-5-5", 130),
    "basic3_k20": ("4-3-3", 160),
    "basic3_k50": ("3-2-2", 250),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "basic3_k1")) for n in FLOORS])
def test_autogrow_specs_grow_to_the_floor_of_the_stop_rule(name: str, tmp_path: Path) -> None:
    depths, epochs = FLOORS[name]
    metrics = tmp_path / "flat.csv"
    metrics.write_text("epoch,val.accuracy\n1,0.5\n")
    with as_file(files("nasir.specs")) as root:
        spec = load_spec(root / "autogrow" / f"{name}.yaml")
    records = simulate_spec(spec, build(spec), metrics, epochs + 1)
    [ended] = [record for record in records if record.get("action") == "end_phase"]
    assert f"at depths {depths} after {epochs} epochs" in ended["reason"]
