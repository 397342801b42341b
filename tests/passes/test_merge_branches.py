"""`merge-branches` and `ungroup-branches`: equal functions, equal training, state that moves, and the way back."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from grown import images, lived, logits, pyramid
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.errors import Decline
from nasir.ir import Graph
from nasir.passes.merge_branches import MergeBranches
from nasir.passes.split_branches import SplitBranches
from nasir.passes.ungroup_branches import UngroupBranches
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract, evaluate, random_batch, random_graph, random_weights, transferred
from nasir.transfer import Take

BLOCKS = ("bottleneck", "basic", "plain", "preact_basic")


def branched(block: str = "basic", site: str = "s2", branches: int = 3, average: str = "probabilities") -> Graph:
    graph = pyramid((2, 2), 8, block=block, size=8)
    split = SplitBranches(branches=branches, how="random", average=average)  # type: ignore[arg-type]
    return split.attempt(graph, site).graph


def weights_of(model: Model) -> Evidence:
    return Evidence({"weights": {name: tensor.numpy() for name, tensor in model.state_dict().items()}})


def merged(model: Model, optimizers: Iterable[torch.optim.Optimizer] = (), join_heads: bool = True) -> None:
    rewrite = MergeBranches(join_heads=join_heads).attempt(model.graph, WHOLE, weights_of(model))
    assert rewrite.preserves == "exact"
    model.apply(rewrite, optimizers=optimizers)


class TestMergeContract(PassContract):
    make = staticmethod(lambda: MergeBranches())

    def graphs(self) -> Iterable[Graph]:
        return [branched(block, average=("probabilities", "logits")[n % 2]) for n, block in enumerate(BLOCKS)]


class TestUngroupContract(PassContract):
    make = staticmethod(lambda: UngroupBranches())

    def graphs(self) -> Iterable[Graph]:
        return [MergeBranches(join_heads=False).attempt(branched(block), WHOLE).graph for block in BLOCKS]


class TestUngroupJoinedHeadsContract(PassContract):
    make = staticmethod(lambda: UngroupBranches(branches=3))

    def graphs(self) -> Iterable[Graph]:
        graphs = []
        for block in BLOCKS[:2]:
            graph = branched(block, average="logits")
            weights = weights_of(Model.from_graph(graph))
            graphs.append(MergeBranches().attempt(graph, WHOLE, weights).graph)
        return graphs


@pytest.mark.parametrize("seed", range(12))
def test_random_networks_survive_a_split_a_merge_and_the_way_back_in_float64(seed: int) -> None:
    graph = random_graph(seed, steps=seed % 8, blocks=1 + seed % 3)
    options = (
        {"branches": 3, "how": "aligned", "planes": "keep", "fresh_head": True, "average": "logits"},
        {"branches": 2, "how": "rrr", "planes": "keep"},
    )[seed % 2]
    for site in list(SplitBranches().sites(graph))[:2]:
        split = SplitBranches(**options).attempt(graph, site)  # type: ignore[arg-type]
        weights = random_weights(split.graph, seed)
        measured = {f"{split.graph.nodes[key.node].label}.{key.slot}": array for key, array in weights.items()}
        merge = MergeBranches().attempt(split.graph, WHOLE, Evidence({"weights": measured}))
        back = UngroupBranches(branches=int(options["branches"])).attempt(merge.graph, WHOLE)  # type: ignore[call-overload]
        batch = random_batch(graph, seed)
        before = evaluate(split.graph, weights, batch)
        for rewrite in (merge, back):
            weights = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
            assert abs(evaluate(rewrite.graph, weights, batch) - before).max() < 1e-12
        assert back.graph.digest == split.graph.digest


@pytest.mark.parametrize("average", ["probabilities", "logits"])
@pytest.mark.parametrize("site", ["s1", "s2", "s2.1"])
@pytest.mark.parametrize("block", BLOCKS)
def test_merging_keeps_the_logits_and_the_way_back_gives_the_same_network(block: str, site: str, average: str) -> None:
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        model = lived(branched(block, site, average=average), dtype=dtype)
        x = images(size=8, dtype=dtype)
        before, graph, state = logits(model, x), model.graph, {k: t.clone() for k, t in model.state_dict().items()}
        merged(model)
        convs = [node.attrs["groups"] for node in model.graph.nodes.values() if node.op == "conv2d"]
        assert max(convs) == 3 or (block, site) == ("plain", "s2.1")  # one convolution: joined over its outputs
        assert len(model.graph.nodes) < len(graph.nodes)
        assert float((logits(model, x) - before).abs().max()) <= bound
        assert model.apply(UngroupBranches(branches=3), WHOLE) is not None
        assert float((logits(model, x) - before).abs().max()) <= bound
        assert model.graph.digest == graph.digest
        assert model.graph.labels.keys() == graph.labels.keys()
        assert {p: r.kind for p, r in model.graph.regions.items()} == {p: r.kind for p, r in graph.regions.items()}
        if average == "probabilities":
            back = model.state_dict()
            assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_averaged_logits_get_one_classifier_and_averaged_probabilities_keep_theirs() -> None:
    model = lived(branched(average="logits"))
    heads = [model.state_dict()[f"branches.{b}.fc.weight"].clone() for b in range(3)]
    merged(model)
    state = model.state_dict()
    assert torch.allclose(state["fc.weight"], torch.cat(heads, 1) / 3, atol=1e-8)
    assert not any(name.startswith("branches.") for name in state)
    model = lived(branched())
    heads = [model.state_dict()[f"branches.{b}.fc.weight"] for b in range(3)]
    merged(model)
    assert all(model.state_dict()[f"branches.{b}.fc.weight"] is not None for b in range(3))
    assert all(torch.equal(model.state_dict()[f"branches.{b}.fc.weight"], heads[b]) for b in range(3))
    ends = model.graph.nodes[model.graph.outputs[0].node]
    assert ends.op == "ensemble" and len(ends.inputs) == 3


def steps(model: Model, optimizer: torch.optim.Optimizer, count: int, seed: int) -> None:
    """Steps on the sum of the branches' losses."""
    for step in range(count):
        x = images(size=8, seed=seed + step, dtype=torch.float64)
        optimizer.zero_grad()
        out = model.train()(x)
        labels = torch.arange(len(x)) % out.shape[-1]
        several = out if out.dim() == 3 else out.unsqueeze(1)
        sum(functional.cross_entropy(several[:, b], labels) for b in range(several.shape[1])).backward()  # type: ignore[union-attr]
        optimizer.step()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_both_versions_train_alike_with_the_state_that_moved(kind: str) -> None:
    """Two steps apart, then merge; one more step of each version gives the same network."""

    def make(model: Model) -> torch.optim.Optimizer:
        if kind == "adam":
            return torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.01)
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)

    apart, together = (lived(branched("bottleneck"), dtype=torch.float64) for _ in range(2))
    first, second = make(apart), make(together)
    for model, optimizer in ((apart, first), (together, second)):
        steps(model, optimizer, 2, 10)
    merged(together, [second])
    held = [id(p) for group in second.param_groups for p in group["params"]]
    assert sorted(held) == sorted(map(id, together.parameters())) == sorted(map(id, second.state))
    for model, optimizer in ((apart, first), (together, second)):
        steps(model, optimizer, 2, 20)
    x = images(size=8, dtype=torch.float64)
    assert float((logits(apart, x) - logits(together, x)).abs().max()) < 1e-10
    together.apply(UngroupBranches(), WHOLE, optimizers=[second])
    state = together.state_dict()
    assert all(float((state[name] - t).abs().max()) < 1e-10 for name, t in apart.state_dict().items())
    for model, optimizer in ((apart, first), (together, second)):
        steps(model, optimizer, 1, 30)
    state = together.state_dict()
    assert all(float((state[name] - t).abs().max()) < 1e-10 for name, t in apart.state_dict().items())


def test_moments_of_a_joined_classifier_are_those_of_its_gradient() -> None:
    """Weights are divided by the number of branches, gradients multiplied by it; biases are averaged."""
    model = lived(branched(average="logits"), dtype=torch.float64)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0, betas=(0.0, 0.0))
    x = images(size=8, dtype=torch.float64)

    def gradients() -> None:
        model.eval()  # the mean of the logits, in both versions
        optimizer.zero_grad()
        functional.cross_entropy(model(x), torch.arange(len(x))).backward()

    gradients()
    optimizer.step()
    merged(model, [optimizer])
    moments = {name: optimizer.state[parameter] for name, parameter in model.named_parameters() if "fc." in name}
    gradients()
    assert moments.keys() == {"fc.weight", "fc.bias"}
    for name, moment in moments.items():
        grad = dict(model.named_parameters())[name].grad
        assert grad is not None and float(grad.abs().max()) > 1e-3
        assert float((moment["exp_avg"] - grad).abs().max()) < 1e-12
        assert float((moment["exp_avg_sq"] - grad**2).abs().max()) < 1e-12


def test_branches_that_differ_are_refused() -> None:
    graph = branched()
    draft = graph.draft()
    draft.set_attrs(graph.find("branches.1.s2.0.conv1"), dilation=1, padding=2, kernel=5)
    for slot in graph.infer.slots[graph.find("branches.1.s2.0.conv1")]:
        draft.fill(graph.find("branches.1.s2.0.conv1"), slot, "zeros")
    with pytest.raises(Decline, match=r"the branches differ: 's2.0.conv1' of 'branches.1' is not as in 'branches.0'"):
        MergeBranches().attempt(draft.commit(), WHOLE)
    with pytest.raises(Decline, match="does not put out an ensemble"):
        MergeBranches().attempt(pyramid((1, 1), 8), WHOLE)
    assert list(MergeBranches().sites(pyramid((1, 1), 8))) == [WHOLE]  # so that a rule hears the reason


def test_what_is_no_merged_network_is_not_taken_apart() -> None:
    with pytest.raises(Decline, match="holds no merged branches"):
        UngroupBranches().attempt(pyramid((1, 1), 8), WHOLE)
    with pytest.raises(Decline, match="does not do the work of 3 branches side by side"):
        UngroupBranches(branches=3).attempt(pyramid((1, 1), 8), WHOLE)
    with pytest.raises(ValueError, match="2 or more"):
        UngroupBranches(branches=1)


@pytest.mark.parametrize(("depths", "branches"), [((2, 1), 2), ((1, 1), 2), ((2, 1), 4)])
def test_a_network_that_would_part_in_the_midst_of_a_stage_is_refused(depths: tuple[int, int], branches: int) -> None:
    graph = pyramid(depths, 4, size=8)
    with pytest.raises(
        Decline, match=r"stage 's\d' would be taken apart in its midst, at 's\d\.\d.*; it was never merged"
    ):
        UngroupBranches(branches=branches).attempt(graph, WHOLE)


def test_a_block_that_cannot_be_grouped_stays_whole_in_its_branch() -> None:
    """The second block of ResBuilder's pads no channels; the first does, at the border."""
    graph = pyramid((1, 2), 8, block="resbuilder", size=8)
    split = SplitBranches(branches=2, how="random").attempt(graph, "s2").graph
    with pytest.raises(Decline, match="begin with nodes that cannot be run as one"):
        MergeBranches().attempt(split, WHOLE)


def test_weights_of_the_grouped_network_are_those_of_the_branches_one_after_another() -> None:
    rewrite = MergeBranches().attempt(branched(), WHOLE)
    graph = rewrite.graph
    joined, grouped = (graph.nodes[graph.find(f"s2.0.conv{n}")] for n in (1, 2))
    assert (joined.attrs["groups"], grouped.attrs["groups"]) == (1, 3)
    assert joined.attrs["out"] == grouped.attrs["out"]
    assert {"s2", "s2.0", "s2.1", "branches.0", "branches.2"} <= graph.regions.keys()
    assert not any(isinstance(source, Take) and source.noise for source in rewrite.plan.sources.values())


def test_frozen_branches_stay_frozen() -> None:
    draft = branched().draft()
    for branch in range(3):
        draft.freeze(f"branches.{branch}.s2.0")
    graph = draft.commit()
    merged = MergeBranches().attempt(graph, WHOLE).graph
    assert merged.is_frozen(merged.find("s2.0.conv2")) and not merged.is_frozen(merged.find("s2.1.conv2"))
    back = UngroupBranches().attempt(merged, WHOLE).graph
    for node_id, node in back.nodes.items():
        if back.infer.slots[node_id]:
            assert back.is_frozen(node_id) == graph.is_frozen(graph.find(node.label)), node.label
    draft = graph.draft()
    draft.unfreeze("branches.1.s2.0")
    with pytest.raises(Decline, match=r"'branches.0.s2.0.conv1' is frozen in some branches only"):
        MergeBranches().attempt(draft.commit(), WHOLE)
