"""What every pass owes: it is a value, leaves its input alone, plans all weights, and keeps its claim."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nasir.analysis.residuals import residual_sums
from nasir.errors import Decline
from nasir.ir import Graph
from nasir.options import options_of
from nasir.registry import passes
from nasir.rewriting.evidence import PER_UNIT, Evidence
from nasir.rewriting.rewrite import Pass, Rewrite, Site, site_name
from nasir.testing.graphs import random_graph, with_ties
from nasir.testing.interpreter import evaluate
from nasir.testing.option_laws import as_written, check_options, in_rule
from nasir.testing.weights import random_batch, random_weights, transferred
from nasir.transfer import TransferPlan

BOUND = 1e-9  # relative; float64
SITES = 4  # tried per network


class PassContract:
    """Subclass with `make`, which gives the pass with some options; override `graphs` where random ones will not do."""

    make: ClassVar[Callable[[], Pass]]
    bound: ClassVar[float] = BOUND
    seconds: ClassVar[float] = 0.1  # at most, for `sites` on a network of `graphs`
    _made: ClassVar[list[tuple[Graph, Site, Rewrite]]]

    def graphs(self) -> Iterable[Graph]:
        """Networks to try the pass on."""
        return [random_graph(seed, steps=4) for seed in range(4)]

    def evidence(self, graph: Graph) -> Evidence:
        """What the pass needs: positive random numbers, and the weights that the claim is checked with."""
        rng = np.random.default_rng(0)
        nodes = graph.nodes
        weights = {f"{nodes[key.node].label}.{key.slot}": array for key, array in random_weights(graph, 0).items()}
        measured: dict[str, dict[str, NDArray[Any]]] = {}
        for kind in [need.kind for need in type(self).make().needs]:
            if kind in PER_UNIT:
                measured[kind] = {space.name: rng.uniform(0.1, 1.0, space.size) for space in graph.infer.spaces}
            elif kind == "weight_abs":
                slots = graph.infer.slots
                labels = [nodes[n].label for n in nodes if any(slot.is_kernel for slot in slots[n].values())]
                measured[kind] = {label: np.array([rng.uniform(0.1, 1.0), 10.0]) for label in labels}
            elif kind == "residual_ratio":
                sums = [nodes[item.node].label for item in residual_sums(graph)]
                measured[kind] = {label: np.array(rng.uniform(0.1, 1.0)) for label in sums}
            elif kind == "weights":
                measured[kind] = weights
        return Evidence(measured, latency=lambda candidate: 1e-9 * (candidate.cost().macs + 1000))

    def sharing_graphs(self) -> Iterable[Graph]:
        """Some of `graphs`, with layers that share their weights."""
        return [tied for tied in map(with_ties, list(self.graphs())[:2]) if tied.ties]

    def rewrites(self, graphs: Iterable[Graph] | None = None) -> Iterator[tuple[Graph, Site, Rewrite]]:
        """Every rewrite of some networks (those of `graphs`) that the pass agrees to."""
        rule = type(self).make()
        for graph in self.graphs() if graphs is None else graphs:
            for site in list(rule.sites(graph))[:SITES]:
                rewrite = rule.apply(graph, site, self.evidence(graph))
                if rewrite is not None:
                    yield graph, site, rewrite

    def made(self) -> list[tuple[Graph, Site, Rewrite]]:
        """All of `rewrites`, made once for the tests of a class that only look at them."""
        kind = type(self)
        if "_made" not in vars(kind):
            kind._made = list(self.rewrites())
        return kind._made

    def test_it_is_a_frozen_value_with_json_options(self) -> None:
        rule = type(self).make()
        assert dataclasses.is_dataclass(rule), "decorate the pass with @dataclass(frozen=True)"
        assert type(rule).__dataclass_params__.frozen, "decorate the pass with @dataclass(frozen=True)"
        options = json.loads(json.dumps(rule.options()))
        assert options.keys() == {field.name for field in dataclasses.fields(rule)}
        assert rule.name, "register the pass: @register('its-name')"
        assert type(self).make() == rule, "two passes with equal options differ"

    def test_options_refuse_what_their_annotations_do_not_allow(self) -> None:
        """A foreign word, a wrong type, a number that is not finite or out of range: alike in Python and in a spec."""
        rule = type(self).make()
        made, options = type(rule), options_of(type(rule))
        given = {key: getattr(rule, key) for key, option in options.items() if getattr(rule, key) != option.default}
        known = made.name in passes.names() and passes.get(made.name) is made
        check_options(
            options, lambda values: made(**values), in_rule(made.name) if known else as_written(made, "pass"), given
        )

    def test_sites_are_stable_and_cheap(self) -> None:
        rule = type(self).make()
        for graph in self.graphs():
            _ = graph.infer
            taken = []
            for _ in range(3):
                start = time.perf_counter()
                first = [site_name(site) for site in rule.sites(graph)]
                taken.append(time.perf_counter() - start)
            assert min(taken) < self.seconds, f"sites took {min(taken):.3f} s"
            assert first == [site_name(site) for site in rule.sites(graph)]

    def test_some_site_is_accepted(self) -> None:
        assert self.made(), "the pass declines everything; override `graphs`"

    def test_the_input_graph_stays_as_it_was(self) -> None:
        rule = type(self).make()
        for graph in self.graphs():
            before, spaces = graph.to_json(), [(s.name, s.size, s.pin) for s in graph.infer.spaces]
            for site in list(rule.sites(graph))[:SITES]:
                rule.apply(graph, site, self.evidence(graph))
                assert graph.to_json() == before, f"{site_name(site)}: the input graph was changed"
                assert [(s.name, s.size, s.pin) for s in graph.infer.spaces] == spaces, "its spaces were changed"

    def test_graph_and_plan_verify_and_read_back_equal(self) -> None:
        for graph, site, rewrite in self.made():
            place = site_name(site)
            rewrite.plan.verify(graph, rewrite.graph)
            again = Graph.from_json(json.loads(json.dumps(rewrite.graph.to_json())))
            assert again == rewrite.graph and again.digest == rewrite.graph.digest, place
            data = json.loads(json.dumps(rewrite.plan.to_json()))
            assert TransferPlan.from_json(data).to_json() == data, place
            assert rewrite.graph.minted >= graph.minted, f"{place}: node ids were handed out again"
            kept = graph.nodes.keys() & rewrite.graph.nodes.keys()
            changed = [n for n in kept if graph.nodes[n].op != rewrite.graph.nodes[n].op]
            assert not changed, f"{place}: node ids {changed} changed their op; make new nodes"

    def test_what_makes_a_network_cheaper_says_that_it_shrinks(self) -> None:
        """Rules with a bound go on once another rule's pass has taken something away; specs are checked for that."""
        for graph, site, rewrite in self.made():
            before, after = graph.cost(), rewrite.graph.cost()
            less = after.params < before.params or after.macs < before.macs
            assert type(self).make().shrinks or not less, f"{site_name(site)}: set `shrinks = True` in the pass"

    def test_refusing_is_decline_inside_and_none_outside(self) -> None:
        rule = type(self).make()
        for graph in self.graphs():
            seen = self.evidence(graph)
            for site in list(rule.sites(graph))[:SITES]:
                reason = ""
                try:
                    rule.attempt(graph, site, seen)
                except Decline as refusal:
                    reason = str(refusal) or "no reason"
                assert reason != "no reason", f"{site_name(site)}: a Decline needs a reason"
                assert (rule.apply(graph, site, seen) is None) == bool(reason), site_name(site)

    def test_equal_inputs_give_equal_rewrites(self) -> None:
        for (_, _, first), (_, _, second) in zip(self.made(), self.rewrites(), strict=True):
            assert first.graph == second.graph, first.site
            assert first.plan.to_json() == second.plan.to_json(), first.site
            assert (first.made_by, first.preserves, first.settle) == (second.made_by, second.preserves, second.settle)

    def test_a_claim_of_exactness_holds(self) -> None:
        self._check_claims(self.made())

    def test_shared_weights_stay_one_array(self) -> None:
        """Where layers share weights, the pass declines, or its network runs, and its claim holds there too."""
        self._check_claims(self.rewrites(self.sharing_graphs()))

    def _check_claims(self, rewrites: Iterable[tuple[Graph, Site, Rewrite]]) -> None:
        for graph, site, rewrite in rewrites:
            if not rewrite.blobs.keys() >= set(rewrite.plan.digests()):
                continue  # arrays that a run keeps
            weights, batch = random_weights(graph, 0), random_batch(graph, 1)
            moved = transferred(rewrite.plan, rewrite.graph, weights, blobs=rewrite.blobs)
            new = evaluate(rewrite.graph, moved, batch)
            if rewrite.preserves == "exact":
                old = evaluate(graph, weights, batch)
                error = float(abs(new - old).max() / max(1.0, abs(old).max()))
                assert error <= self.bound, f"{site_name(site)}: claims to be exact, outputs differ by {error:.1e}"
