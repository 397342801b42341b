"""`widen`: what grows, how new units start, and that the function stays where it is said to stay (float64)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grown import images, lived, logits, pyramid
from networks import small_resnet

from nasir.analysis.uniform import uniform_spaces
from nasir.backends.torch import Model
from nasir.errors import Decline, GraphError, UnknownName
from nasir.ir import Draft, Graph
from nasir.passes.widen import Widen
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE
from nasir.testing import PassContract, evaluate, random_batch, random_graph, random_weights, transferred
from nasir.testing.graphs import MIXING

EQUAL = {"how": "replicate", "symmetry": "none"}
HOWS = [EQUAL, {"how": "fresh"}, {"how": "paired"}]


class Plain(PassContract):
    """On networks without ops that normalize over channels, where the claim is `exact`."""

    def graphs(self) -> list[Graph]:
        return [random_graph(seed, steps=4, without=MIXING) for seed in range(3)]

    bound = 1e-12


class TestCopies(Plain):
    make = staticmethod(lambda: Widen(units=2, how="replicate", symmetry="none", order="random"))


class TestFresh(Plain):
    make = staticmethod(lambda: Widen(factor=1.6, how="fresh"))


class TestPairs(Plain):
    make = staticmethod(lambda: Widen(units=3, how="paired", multiple_of=2))


class TestNoise(PassContract):
    make = staticmethod(lambda: Widen(factor=2.0, noise=0.05))


def sizes(graph: Graph) -> dict[str, int]:
    return {space.name: space.size for space in graph.infer.spaces}


def site(graph: Graph, name: str) -> object:
    return next(space for space in graph.infer.spaces if space.name == name)


@pytest.mark.parametrize("train", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("options", HOWS, ids=lambda options: options["how"])
@pytest.mark.parametrize("where", [WHOLE, "s1.0.conv1", "s2"])
def test_the_function_is_kept_in_eval_and_in_train_mode(options: dict, where: str, train: bool) -> None:
    """Net2Wider and V V / Z -Z: equal units have equal batch statistics, so training mode is exact as well."""
    model = lived(small_resnet((2, 2)), dtype=torch.float64)
    x = images(5, 8, dtype=torch.float64)
    before = logits(model, x, train)
    place = where if where in (WHOLE, "s2") else site(model.graph, where)
    rewrite = Widen(factor=1.75, **options).attempt(model.graph, place)
    assert rewrite.preserves == "exact"
    after = logits(model.rewritten(rewrite), x, train)
    assert float((after - before).abs().max() / before.abs().max()) < 1e-12


def test_a_region_widens_what_is_first_written_in_it_and_the_network_everything() -> None:
    graph = small_resnet((1, 1))
    before = sizes(graph)
    after = sizes(Widen(units=2, how="fresh").attempt(graph, "s2").graph)
    assert {name for name in before if after[name] != before[name]} == {"s2.0.conv1", "s2.0.conv2"}
    after = sizes(Widen(units=2, how="fresh").attempt(graph, WHOLE).graph)
    assert {name for name in before if after[name] == before[name]} == {"x", "fc"}


def test_rounding_goes_up_to_the_multiple_after_the_factor_was_rounded_down() -> None:
    graph = pyramid((1,), 10, size=8)
    assert sizes(Widen(factor=1.25, how="fresh").attempt(graph, WHOLE).graph)["s1.0.conv1"] == 12
    assert sizes(Widen(factor=1.25, how="fresh", multiple_of=8).attempt(graph, WHOLE).graph)["s1.0.conv1"] == 16
    with pytest.raises(Decline, match=r"no width grows by the factor 1\.05"):
        Widen(factor=1.05, how="fresh").attempt(graph, WHOLE)


def grouped() -> Graph:
    """Grouped, depthwise with a multiplier, and a head on groups of channels."""
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[2, 6, 6]), "a", out=4, kernel=3, padding=1)
    x = draft.add("conv2d", x, "depthwise", out=8, kernel=3, padding=1, groups=4)
    x = draft.add("conv2d", x, "b", out=6, kernel=1)
    x = draft.add("relu", draft.add("conv2d", x, "grouped", out=9, kernel=3, padding=1, groups=3), "relu")
    draft.output(draft.add("linear", draft.add("flatten", x, "flat"), "fc", out=2))
    return draft.commit()


def test_every_channel_axis_grows_by_the_factor_once() -> None:
    graph = grouped()
    assert sum(space.resizable for space in graph.infer.spaces) > len(uniform_spaces(graph))
    new = Widen(factor=2.0, how="fresh").attempt(graph, WHOLE).graph
    for label in ("a", "depthwise", "b", "grouped"):
        old, now = (g.nodes[graph.labels[label]].attrs["out"] for g in (graph, new))
        assert now == 2 * old, label
    assert new.nodes[graph.labels["grouped"]].attrs["groups"] == 3


@pytest.mark.parametrize("options", HOWS, ids=lambda options: options["how"])
@pytest.mark.parametrize("seed", range(6))
def test_all_spaces_at_once_keep_the_function_of_random_networks(seed: int, options: dict) -> None:
    graph = random_graph(seed, steps=6, without=MIXING)
    rewrite = Widen(units=3, **options).attempt(graph, WHOLE, Evidence(seed=seed))
    weights, batch = random_weights(graph, seed), random_batch(graph, seed)
    after = transferred(rewrite.plan, rewrite.graph, weights)
    for train in (False, True):
        old = evaluate(graph, weights, batch, train)
        new = evaluate(rewrite.graph, after, batch, train)
        assert abs(new - old).max() <= 1e-12 * max(1.0, abs(old).max())


def test_pairs_are_written_alike_and_read_oppositely_and_an_odd_one_is_silent() -> None:
    model = lived(small_resnet(), dtype=torch.float64)
    model.apply(Widen(units=3, how="paired"), site(model.graph, "s1.0.conv1"))
    incoming = model.get_parameter("s1.0.conv1.weight")
    outgoing = model.get_parameter("s1.0.conv2.weight")
    assert torch.equal(incoming[4], incoming[5]) and not torch.equal(incoming[4], incoming[6])
    assert torch.equal(outgoing[:, 4], -outgoing[:, 5]) and bool((outgoing[:, 4] != 0).all())
    assert not outgoing[:, 6].any() and bool((incoming[6] != 0).all())
    # unlike copies, they separate by themselves
    model.train()(images(4, 8, dtype=torch.float64)).square().sum().backward()
    slope = incoming.grad
    assert slope is not None and not torch.allclose(slope[4], slope[5])


def test_copies_separate_under_sgd_only_with_noise() -> None:
    graph = small_resnet()
    for options, apart in ((EQUAL, False), ({"noise": 0.02}, True)):
        model = lived(graph, dtype=torch.float64)
        model.apply(Widen(units=4, **options), site(graph, "s1.0.conv1"))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for step in range(3):
            optimizer.zero_grad()
            model.train()(images(4, 8, step, dtype=torch.float64)).square().sum().backward()
            optimizer.step()
        weight = model.get_parameter("s1.0.conv1.weight").detach()
        assert (float((weight[:4] - weight[4:]).abs().max()) > 1e-6) is apart


def test_random_order_draws_from_the_run_and_circular_goes_round() -> None:
    graph = small_resnet()
    place = site(graph, "s1.0.conv1")

    def index(order: str, seed: int = 0) -> list[int]:
        rewrite = Widen(units=6, order=order, symmetry="none").attempt(graph, place, Evidence(seed=seed))
        key = next(key for key in rewrite.plan.sources if graph.nodes[key.node].label == "s1.0.conv1")
        return rewrite.plan.sources[key].axes[0].index.tolist()

    assert index("circular") == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert index("random") == index("random") != index("random", 1)
    assert index("random")[:4] == [0, 1, 2, 3] and set(index("random")) == {0, 1, 2, 3}


def test_where_something_normalizes_over_the_space_nothing_is_claimed() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[2, 4, 4]), "a", out=4, kernel=3)
    x = draft.add("group_norm", x, "norm", groups=1)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=2))
    graph = draft.commit()
    for options in HOWS:
        assert Widen(units=2, **options).attempt(graph, WHOLE).preserves == "no"
    assert Widen(units=2, noise=0.1).attempt(small_resnet(), WHOLE).preserves == "approximate"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "give one of factor"),
        ({"factor": 2.0, "units": 1, "how": "fresh"}, "give one of factor"),
        ({"factor": 1.0, "how": "fresh"}, "factor: must be above 1, found 1.0; .* prune-channels"),
        ({"factor": 1e30, "how": "fresh"}, "at most 1,000"),
        ({"units": 0, "how": "fresh"}, "units: must be at least 1, found 0; .* prune-channels"),
        ({"units": 1, "how": "fresh", "multiple_of": 0}, "multiple_of: must be at least 1, found 0"),
        ({"units": 1}, "never separate: give noise"),
        ({"units": 1, "noise": 0.1, "symmetry": "none"}, "exclude each other"),
        ({"units": 1, "noise": 0.1, "how": "fresh"}, "makes none; leave it out"),
        ({"units": 1, "noise": -1.0}, "noise: must be at least 0, found -1.0; 0.01 is usual"),
        ({"units": 1, "noise": float("inf")}, "noise: expected a finite number, found inf; 0.01 is usual"),
    ],
)
def test_options_that_make_no_sense_are_refused_with_a_remedy(options: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Widen(**options)


def test_places_that_are_not_there_are_errors_and_empty_ones_declines() -> None:
    graph = small_resnet()
    with pytest.raises(UnknownName, match="widen has no site 's9'"):
        Widen(units=1, how="fresh").attempt(graph, "s9")
    with pytest.raises(GraphError, match="cannot be resized: it is the output"):
        Widen(units=1, how="fresh").attempt(graph, site(graph, "fc"))
    draft = Draft()
    x = draft.add("linear", draft.add("input", (), "x", shape=[4]), "fc", out=2)
    draft.output(x)
    with pytest.raises(Decline, match="no resizable space"):
        Widen(units=1, how="fresh").attempt(draft.commit(), WHOLE)


def test_the_moments_of_an_optimizer_follow() -> None:
    model = Model.from_graph(small_resnet())
    optimizer = torch.optim.Adam(model.parameters())
    model(images(4, 8)).square().sum().backward()
    optimizer.step()
    old = optimizer.state[model.get_parameter("s1.0.conv2.weight")]["exp_avg"].clone().numpy()
    model.apply(Widen(units=4, symmetry="none"), site(model.graph, "s1.0.conv1"), optimizers=[optimizer])
    new = optimizer.state[model.get_parameter("s1.0.conv2.weight")]["exp_avg"].numpy()
    # readers of two copies hold half the weight each; the gradient of each half is the whole one
    assert np.allclose(new[:, :4], old, rtol=1e-6) and np.allclose(new[:, 4:], old, rtol=1e-6)
