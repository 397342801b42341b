"""RRR-Net's figures: the calibration table, the reduction to one block a stage, and how filters are dealt."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from rrrnets import imagenet_bottlenecks

from nasir.api import run
from nasir.backends.torch import Model
from nasir.branching import calibrated, downstream, groups_of, params_of
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import read_journal
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.split_branches import SplitBranches
from nasir.policy.plans import Moment
from nasir.records import RewriteRecord
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.propose import make_pass
from nasir.rewriting.rewrite import WHOLE, Rewrite
from nasir.running.replay import replay_graphs
from nasir.spec import load_spec
from nasir.spec.network import build
from nasir.transfer import Key, Stack, Take

SPECS = Path(__file__).parents[1] / "specs/rrrnet"
FULL = (58_184_788, 3_758_923_776)  # ResNet-152 with 20 classes: parameters, MACs at 128x128
MONOLITHIC = 7_592_980  # parameters of layer3, layer4 and fc of the reduced network
TABLE = {  # branches: planes, parameters of a branch, ratio, total parameters, MACs, times fewer of both
    1: ((256, 512), 7_592_980, 1.0, 8_056_916, 478_978_048, 7.222, 7.848),
    2: ((175, 356), 3_778_813, 0.99534, 8_021_562, 494_952_192, 7.254, 7.595),
    4: ((119, 247), 1_896_810, 0.99924, 8_051_176, 518_611_200, 7.227, 7.248),
    8: ((79, 170), 946_273, 0.99700, 8_034_120, 546_090_240, 7.242, 6.883),
    16: ((51, 115), 466_138, 0.98225, 7_922_144, 576_407_552, 7.345, 6.521),
    32: ((32, 77), 229_949, 0.96910, 7_822_304, 611_396_608, 7.438, 6.148),
    64: ((20, 52), 117_972, 0.99437, 8_014_144, 662_851_584, 7.260, 5.671),
    128: ((11, 34), 55_881, 0.94202, 7_616_704, 673_288_192, 7.639, 5.583),
    256: ((6, 22), 27_100, 0.91369, 7_401_536, 689_512_448, 7.861, 5.452),
}
OTHERS = [  # branches, classes, site, planes
    (2, 62, "layer3", (175, 356)),
    (4, 62, "layer3", (118, 246)),
    (8, 62, "layer3", (77, 168)),
    (8, 19, "layer3", (79, 170)),
    (2, 20, "layer4", (322,)),
    (4, 20, "layer4", (195,)),
    (8, 20, "layer4", (113,)),
    (16, 20, "layer4", (62,)),
    (32, 20, "layer4", (33,)),
]


def split(graph: Graph, site: str = "layer3", **options: object) -> Graph:
    return SplitBranches(how="random", **options).attempt(graph, site).graph  # type: ignore[arg-type]


def planes(graph: Graph, branch: int = 0) -> tuple[int, ...]:
    stages = [stage.path for stage in graph.stages if stage.path.startswith(f"branches.{branch}.")]
    return tuple([graph.nodes[graph.find(f"{stage}.0.conv1")].attrs["out"] for stage in stages])


@pytest.mark.parametrize("branches", TABLE)
def test_the_calibration_table(branches: int) -> None:
    wanted, params, ratio, total, macs, fewer, faster = TABLE[branches]
    graph = split(imagenet_bottlenecks(), branches=branches)
    assert planes(graph) == wanted and planes(graph, branches - 1) == wanted
    assert graph.cost("branches.0").params == params
    assert branches * params / MONOLITHIC == pytest.approx(ratio, abs=1e-5)
    assert (graph.cost().params, graph.cost().macs) == (total, macs)
    assert FULL[0] / total == pytest.approx(fewer, abs=5e-4)
    assert FULL[1] / macs == pytest.approx(faster, abs=5e-4)


def test_at_eight_branches_the_ratio_holds_to_seven_digits_and_both_factors_are_above_six() -> None:
    graph = split(imagenet_bottlenecks(), branches=8)
    assert 8 * graph.cost("branches.0").params / MONOLITHIC == pytest.approx(0.9969978, abs=1e-7)
    assert graph.cost("branches.0").macs == 38_802_848
    assert round(FULL[0] / graph.cost().params, 2) == 7.24
    assert round(FULL[1] / graph.cost().macs, 2) == 6.88


@pytest.mark.parametrize(("branches", "classes", "site", "wanted"), OTHERS)
def test_other_classes_and_places(branches: int, classes: int, site: str, wanted: tuple[int, ...]) -> None:
    assert planes(split(imagenet_bottlenecks(classes=classes), site, branches=branches)) == wanted


def test_nineteen_classes_have_the_planes_of_twenty() -> None:
    graph = imagenet_bottlenecks(classes=19)
    nodes = downstream(graph, "layer3")
    groups, budget = groups_of(graph, nodes), params_of(graph, nodes, {})
    for branches in (2, 4, 8, 16, 32, 64, 128, 256):
        assert calibrated(graph, nodes, groups, branches, budget) == TABLE[branches][0]


def test_the_full_depth_is_calibrated_too() -> None:
    full = imagenet_bottlenecks((3, 8, 36, 3))
    assert (full.cost().params, full.cost().macs) == FULL
    graph = split(full, branches=8)
    assert planes(graph) == (89, 180)
    assert (graph.cost().params, graph.cost().macs) == (58_153_248, 3_790_469_632)


def test_the_costs_of_the_reduced_network() -> None:
    graph = imagenet_bottlenecks()
    assert graph.cost().params == 8_056_916
    parts = [graph.cost(label) for label in ("conv1", "bn1", "layer1", "layer2")]
    assert sum(cost.params for cost in parts) == 463_936
    assert sum(cost.macs for cost in parts) == 235_667_456
    firsts = [graph.cost(f"layer{n}.0").params for n in (1, 2, 3, 4)]
    assert firsts == [75_008, 379_392, 1_512_448, 6_039_552]


def test_planes_can_be_rounded_to_multiples() -> None:
    graph = split(imagenet_bottlenecks(), branches=8, multiple_of=8)
    assert all(width % 8 == 0 for width in planes(graph)) and planes(graph) == (80, 168)
    assert 8 * graph.cost("branches.0").params <= MONOLITHIC


def test_removing_inner_blocks_leaves_torchvisions_entries_by_name() -> None:
    """24 entries of the state in a first block, 18 in an inner one."""
    graph = imagenet_bottlenecks((3, 4, 6, 3))
    before = Model.from_graph(graph, device="meta").state_dict().keys()
    for stage in graph.stages:
        for block in graph.blocks_of(stage.path)[1:]:
            assert sum(name.startswith(block.path + ".") for name in before) == 18
            graph = RemoveBlock().attempt(graph, block.path).graph
    after = Model.from_graph(graph, device="meta").state_dict().keys()
    for stage in graph.stages:
        assert sum(name.startswith(f"{stage.path}.0.") for name in after) == 24
    assert after <= before
    assert graph.cost().params == 8_056_916 and graph.digest == imagenet_bottlenecks().digest


# -- how filters are dealt


@cache
def eight_branches(seed: int) -> Rewrite:
    return SplitBranches().attempt(imagenet_bottlenecks(), "layer3", Evidence(seed=seed))


def dealt(label: str, branch: int, seed: int = 0) -> Take | Stack:
    """Source of the weight of a convolution of a branch of eight."""
    rewrite = eight_branches(seed)
    source = rewrite.plan.sources[Key(rewrite.graph.find(f"branches.{branch}.{label}"), "weight")]
    assert isinstance(source, Take | Stack)
    return source


def filters(source: Take | Stack) -> np.ndarray:
    """[input channels, filters] of old output filters."""
    if isinstance(source, Take):
        rows, inputs = source.axes[0], source.axes[1]
        assert rows is not None and inputs is not None
        assert inputs.index.tolist() == list(range(len(inputs.index)))
        return np.tile(rows.index, (len(inputs.index), 1))
    indices = []
    for k, part in enumerate(source.parts):
        assert isinstance(part, Take) and part.axes[0] is not None and part.axes[1] is not None
        assert part.axes[1].index.tolist() == [k]  # input channels are always the first ones
        indices.append(part.axes[0].index)
    return np.stack(indices)


@pytest.mark.parametrize(
    ("label", "old", "width", "inputs"),
    [
        ("layer3.0.conv1", 256, 79, 512),
        ("layer3.0.conv3", 1024, 316, 79),
        ("layer3.0.downsample.0", 1024, 316, 512),
        ("layer4.0.conv2", 512, 170, 170),
        ("layer4.0.conv3", 2048, 680, 170),
    ],
)
def test_filters_are_dealt_in_chunks_and_then_shuffled_for_each_input_channel(
    label: str, old: int, width: int, inputs: int
) -> None:
    lists = np.concatenate([filters(dealt(label, branch)) for branch in range(8)], axis=1)
    assert lists.shape == (inputs, 8 * width)
    assert (lists[:, :old] == np.arange(old)).all()  # real filters, in order
    rounds = -(-8 * width // old)
    for start in range(old, 8 * width, old):
        part = lists[:, start : start + old]
        assert all(len(set(row)) == len(row) for row in part.tolist())  # permutations
        assert (part[0] != part[1]).any() and (part[0] != np.arange(part.shape[1])).any()
    assert rounds > 1


def test_a_seed_decides_the_shuffle() -> None:
    first, other = (filters(dealt("layer3.0.conv1", 7, seed)) for seed in (0, 1))
    eight_branches.cache_clear()
    assert (first == filters(dealt("layer3.0.conv1", 7, 0))).all() and (first != other).any()


@pytest.mark.slow
def test_norms_and_classifiers_start_anew_and_the_stem_is_untouched() -> None:
    graph = imagenet_bottlenecks(size=32)
    rewrite = SplitBranches(branches=4).attempt(graph, "layer3")
    taken = {rewrite.graph.nodes[key.node].op for key, s in rewrite.plan.sources.items() if isinstance(s, Take | Stack)}
    assert taken == {"conv2d"}
    model = Model.from_graph(graph)
    stem = dict(model.named_parameters())
    model.apply(rewrite)
    for name, parameter in model.named_parameters():
        if not name.startswith("branches."):
            assert parameter is stem[name]
        elif ".bn" in name or "downsample.1" in name:
            assert bool((parameter == (1.0 if name.endswith("weight") else 0.0)).all())
    first, second = model.state_dict()["branches.0.fc.weight"], model.state_dict()["branches.1.fc.weight"]
    assert not torch.equal(first, second)
    assert model.state_dict()["branches.0.layer3.0.conv1.weight"].shape[:2] == (119, 512)


# -- the shipped specs


def after_the_rules(path: Path) -> Graph:
    """The network once the rules of the first phase have acted."""
    spec = load_spec(path)
    graph = build(spec)
    for rule in spec.phases[0].rules:
        [(name, options)] = rule.do.items()
        sites = rule.where.sites or (WHOLE,)
        graph = make_pass(name, options).attempt(graph, sites[0]).graph
    return graph


@pytest.mark.parametrize(
    ("name", "params", "macs"), [("resnet152", 8_034_120, 546_090_240), ("resnet152_one", 8_056_916, 478_978_048)]
)
def test_the_shipped_specs_reduce_and_branch_resnet152(name: str, params: int, macs: int) -> None:
    graph = after_the_rules(SPECS / f"{name}.yaml")
    assert (graph.cost().params, graph.cost().macs) == (params, macs)
    assert graph.frozen == ("bn1", "conv1", "layer1", "layer2")
    learning = sum(graph.cost(graph.nodes[n].label).params for n in graph.nodes if not graph.is_frozen(n))
    assert learning == params - 463_936


def test_the_sweep_has_a_phase_of_300_epochs_for_each_of_the_47_configurations() -> None:
    spec = load_spec(SPECS / "resnet152_sweep.yaml")
    assert [phase.epochs for phase in spec.phases] == [300] * 47
    rules = [[rule.plan("r") for rule in phase.rules] for phase in spec.phases]
    assert [[rule.pass_name for rule in rules_] for rules_ in rules] == [["keep-blocks"]] + [["select-blocks"]] * 46
    assert all(rule.when == Moment("start") for rules_ in rules for rule in rules_)
    assert all(phase.training(spec).reset_optimizer for phase in spec.phases[1:])
    depths = build(spec).depths()
    assert sum(depths.values()) - len(depths) == 46 and rules[0][0].options["archive"]


def test_the_yardsticks_are_the_whole_resnet152() -> None:
    for name in ("resnet152_frozen", "resnet152_full"):
        graph = build(load_spec(SPECS / f"{name}.yaml"))
        assert (graph.cost().params, graph.cost().macs) == FULL


RUN = """\
nasir: 1
name: branches
seed: 3
device: cpu
precision: fp32
input: {image: [3, 8, 8]}
network:
  - conv_bn_relu: {out: 8, label: stem}
  - stage: {name: s1, block: bottleneck, out: 4, depth: 2}
  - stage: {name: s2, block: bottleneck, out: 8, depth: 2, stride: 2}
  - classifier: {classes: 3}
data:
  dataset: synthetic
  options: {classes: 3, size: 8, channels: 3, train: 96, test: 48}
  batch_size: 16
  validation: 24
phases:
  - name: train
    epochs: 2
    optimizer: {adamw: {lr: 1.0e-3, weight_decay: 0.01}}
    rules:
      - {when: start, do: {keep-blocks: {depths: 1}}}
      - {when: start, do: {freeze: {paths: [stem, s1], refresh_epochs: 2}}}
      - {when: start, do: {split-branches: {branches: 3}}, where: {sites: [s2]}}
      - {when: end, do: merge-branches}
  - name: deploy
    epochs: 1
    rules:
      - {when: end, do: ungroup-branches}
"""


def test_the_whole_system_runs_and_replays(tmp_path: Path) -> None:
    (tmp_path / "branches.yaml").write_text(RUN)
    run(tmp_path / "branches.yaml", out=tmp_path / "run")
    records, _ = read_journal(tmp_path / "run/journal.jsonl")
    rewrites = [record for record in records if isinstance(record, RewriteRecord)]
    passes = ["keep-blocks", "freeze", "split-branches", "merge-branches", "ungroup-branches"]
    assert [record.pass_name for record in rewrites] == passes
    assert [record.preserves for record in rewrites[3:]] == ["exact", "exact"]
    graphs = replay_graphs(RunDirectory(tmp_path / "run"))
    assert graphs[-1].digest == graphs[-3].digest != graphs[-2].digest
    assert all(graph.frozen == ("s1", "stem") for graph in graphs[2:])
