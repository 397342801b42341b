"""Costs of nodes, regions and networks; estimates of latency from a device profile."""

from __future__ import annotations

from pathlib import Path

import pytest
from networks import small_resnet

from nasir.analysis.roofline import PROFILES, DeviceProfile, estimate, estimates, find_profile, load_profile
from nasir.errors import GraphError, UsageError
from nasir.ir import Cost, Draft, Graph, Port
from nasir.ir.cost import total
from nasir.testing import random_graph


def one_conv() -> Graph:
    """3x8x8 -> conv3x3 to 4 channels with bias -> batch norm -> flatten."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("conv2d", x, "s.conv", out=4, kernel=3, padding=1, bias=True)
    x = draft.add("batch_norm", x, "s.bn")
    draft.region("s", "stage")
    draft.output(draft.add("flatten", x, "flat"))
    return draft.commit()


def test_a_node_costs_what_a_hand_counts() -> None:
    graph = one_conv()
    weights, values = 4 * 3 * 9 + 4, 4 * 64
    assert graph.cost("s.conv") == Cost(weights, 4 * 3 * 9 * 64, 4 * values, 4 * weights)
    # weight, bias and two running statistics of 4 floats, and a counter of 8 bytes
    assert graph.cost("s.bn") == Cost(8, 0, 4 * values, 4 * 16 + 8)
    assert graph.cost("x") == Cost(0, 0, 4 * 3 * 64, 0)
    assert graph.cost("s") == total([graph.cost("s.conv"), graph.cost("s.bn")])
    assert graph.cost().flops == 2 * graph.cost().macs == 2 * 4 * 3 * 9 * 64


@pytest.mark.parametrize("seed", range(10))
def test_nodes_add_up_to_regions_and_regions_to_the_network(seed: int) -> None:
    graph = random_graph(seed)
    parts = graph.costs
    assert tuple(parts) == graph.order
    assert total(parts.values()) == graph.cost()
    for path in graph.regions:
        assert graph.cost(path) == total(parts[node_id] for node_id in graph.members(path))
    outside = [parts[node_id] for node_id in graph.order if not graph.owners[node_id]]
    tops = [graph.cost(path) for path, region in graph.regions.items() if not region.parent]
    assert total([*outside, *tops]) == graph.cost()


def test_costs_are_counted_once_for_a_graph() -> None:
    graph = small_resnet()
    assert graph.costs is graph.costs and graph.cost() is graph.cost()


def test_an_unknown_place_has_no_cost() -> None:
    with pytest.raises(GraphError, match=r"no node is labelled 's1\.9'"):
        small_resnet().cost("s1.9")


def test_depthwise_and_grouped_convolutions_multiply_within_their_groups() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[8, 4, 4])
    x = draft.add("conv2d", x, "grouped", out=8, kernel=3, padding=1, groups=2)
    draft.output(draft.add("conv2d", x, "depthwise", out=16, kernel=(1, 3), padding=(0, 1), groups=8))
    graph = draft.commit()
    assert graph.cost("grouped").macs == 4 * 9 * 8 * 16
    assert graph.cost("depthwise").macs == 1 * 3 * 16 * 16


def test_tokens_multiply_one_by_one_and_attention_with_each_other() -> None:
    draft = Draft()
    x = draft.add("tokens", draft.add("input", (), "x", shape=[6, 2, 5]), "tokens")
    x = draft.add("linear", x, "qkv", out=3 * 2 * 4)
    draft.output(draft.add("self_attention", x, "attend", heads=2, head_dim=4, scale=0.5))
    graph = draft.commit()
    assert graph.cost("qkv").macs == 10 * 6 * 24
    assert graph.cost("attend").macs == 2 * 2 * 10 * 10 * 4  # q k^T and the product with v, for two heads


# -- latency from a device profile

SLOW_MEMORY = DeviceProfile("slow memory", 1e12, 1e6)
SLOW_ARITHMETIC = DeviceProfile("slow arithmetic", 1e6, 1e12)


def test_a_node_takes_the_longer_of_arithmetic_and_traffic() -> None:
    graph = one_conv()
    flops = 2 * 4 * 3 * 9 * 64
    moved = 5 * 4 * (3 * 64 + 4 * 64) + 4 * (4 * 3 * 9 + 4)  # weights move once for a batch of 5
    assert estimate(graph, SLOW_ARITHMETIC, 5, "s.conv") == pytest.approx(5 * flops / 1e6)
    assert estimate(graph, SLOW_MEMORY, 5, "s.conv") == pytest.approx(moved / 1e6)
    node = estimates(graph, SLOW_MEMORY, 5)[graph.find("s.conv")]
    assert (node.compute, node.memory) == pytest.approx((5 * flops / 1e12, moved / 1e6))
    assert node.seconds == max(node.compute, node.memory)


def test_estimates_add_up_and_views_are_free() -> None:
    graph = one_conv()
    estimated = estimates(graph, SLOW_MEMORY)
    assert estimated[graph.find("x")].seconds == estimated[graph.find("flat")].seconds == 0
    assert estimate(graph, SLOW_MEMORY) == pytest.approx(sum(node.seconds for node in estimated.values()))
    assert estimate(graph, SLOW_MEMORY, path="s") == pytest.approx(estimate(graph, SLOW_MEMORY))


def test_calls_have_an_overhead_of_their_own() -> None:
    graph = one_conv()
    slow_calls = DeviceProfile("slow calls", 1e12, 1e12, overhead_seconds=1.0)
    plain = DeviceProfile("quick calls", 1e12, 1e12)
    assert estimate(graph, slow_calls) == pytest.approx(2.0 + estimate(graph, plain))  # convolution and norm


def test_the_shipped_profiles_are_morphnets() -> None:
    known = {name: (p.flops_per_second / 1e9, p.bytes_per_second / 1e9) for name, p in PROFILES.items()}
    assert known == {
        "K80": (8740, 480),
        "P4": (5500, 192),
        "T4": (8100, 300),
        "P100": (9300, 732),
        "V100": (125000, 900),
        "TPUv2": (22500, 300),
    }
    assert find_profile("v100") is PROFILES["V100"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.yaml", "flops_per_second: 8.7e12\nbytes_per_second: 480_000_000_000\noverhead_seconds: 5e-6\n"),
        ("mine.json", '{"flops_per_second": 8.7e12, "bytes_per_second": 4.8e11, "overhead_seconds": 5e-6}'),
    ],
)
def test_profiles_are_read_from_files(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert find_profile(str(tmp_path / name)) == DeviceProfile("mine", 8.7e12, 4.8e11, 5e-6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flops_per_second: 1e12\n", "bytes_per_second"),
        ("flops_per_second: 1e12\nbytes_per_second: 1e11\nwatts: 70\n", "watts"),
        ("flops_per_second: -1\nbytes_per_second: 1e11\n", "above 0"),
        ("flops_per_second: fast\nbytes_per_second: 1e11\n", "fast"),
        ("flops_per_second: true\nbytes_per_second: 1e11\n", "expected a number"),
        ("flops_per_second: 1\nbytes_per_second: 1\noverhead_seconds: -1\n", "0 or more"),
        ("flops_per_second: .nan\nbytes_per_second: 1\n", "above 0"),
        ("- 1\n", "keys"),
        ("{", "neither YAML nor JSON"),
        ("%YAML " + "9" * 5000 + ".1\n--- {}\n", "neither YAML nor JSON"),
        ("a: 2001-99-99\n", "neither YAML nor JSON"),
        ("[" * 5000, "neither YAML nor JSON"),
        (f"flops_per_second: {'9' * 400}\nbytes_per_second: 1\n", "give numbers such as"),
        ("#" * (1 << 17), "it has more than 65536 bytes"),
        (
            "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
            + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12))
            + "flops_per_second: *a11\nbytes_per_second: 1\n",
            "a device profile has the keys",
        ),
    ],
)
def test_a_bad_profile_is_refused_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as refused:
        load_profile(path)
    assert "bad.yaml" in str(refused.value)


def test_unknown_profiles_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="V100"):
        find_profile("V1000")
    with pytest.raises(UsageError, match=r"none\.yaml"):
        find_profile(str(tmp_path / "none.yaml"))


def test_a_batch_has_a_sample() -> None:
    with pytest.raises(UsageError, match="at least 1"):
        estimate(one_conv(), SLOW_MEMORY, 0)


def test_outputs_beyond_the_first_count() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4, 2, 2])
    parts = draft.add("split", x, "split", sizes=[1, 3])
    draft.output(draft.add("concat", (Port(parts.node, 1), parts), "cat"))
    graph = draft.commit()
    assert graph.cost("split").activation_bytes == 4 * 4 * 4
    # the concatenation reads both parts and writes them once more
    assert estimate(graph, SLOW_MEMORY, path="cat") == pytest.approx(2 * 4 * 16 / 1e6)
