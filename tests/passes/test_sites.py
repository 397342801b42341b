"""How a pass finds the site that a caller names: in one place, alike for all callers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from grown import pyramid

from nasir.backends.torch import Model
from nasir.errors import Decline, UnknownName, UsageError
from nasir.ir.graph import Draft, Graph
from nasir.ir.space import Atom
from nasir.passes.insert_block import InsertBlock
from nasir.passes.keep_blocks import KeepBlocks
from nasir.passes.prune_channels import PruneChannels
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.widen import Widen
from nasir.rewriting.evidence import Evidence
from nasir.rewriting.rewrite import WHOLE, Pass

FRESH = Widen(units=2, how="fresh")


@dataclass(frozen=True)
class Spaces(Pass):
    """It takes every site for a space, as a pass of a plugin may."""

    name = "spaces"

    def sites(self, graph: Graph) -> list[Atom]:
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft: Draft, site: Any, seen: Evidence) -> None:
        draft.select(site, [*range(site.size), 0])


def test_a_space_can_be_given_by_its_name() -> None:
    graph = pyramid((1, 1), 4)
    space = next(space for space in graph.infer.spaces if space.resizable)
    for change in (FRESH, Spaces()):
        named, given = change.apply(graph, space.name), change.attempt(graph, space)
        assert named is not None and named.graph == given.graph and named.site == given.site == space.name
        assert change.site(graph, space.name) is change.site(graph, space) is space
    model = Model.from_graph(graph)
    assert model.apply(FRESH, space.name) is not None
    assert model.graph == FRESH.attempt(graph, space.name).graph


def test_a_name_that_nothing_has_is_an_error_with_a_hint_and_never_none() -> None:
    graph = pyramid((1, 1), 4)
    space = next(space for space in graph.infer.spaces if space.resizable)
    model = Model.from_graph(graph)
    for name, hint in ((space.name + "x", f"did you mean '{space.name}'"), ("qqqq", "known: '")):
        for call in (FRESH.apply, FRESH.attempt, Spaces().apply, lambda graph, name: model.apply(FRESH, name)):
            with pytest.raises(UnknownName, match=f"has no site '{name}' in the network as it is now; .*{hint}"):
                call(graph, name)
    with pytest.raises(UsageError, match="give the site to act on, too; it has s1, s2"):
        Model.from_graph(graph).apply(InsertBlock())


def test_a_place_that_a_pass_does_not_act_on_is_declined() -> None:
    graph = pyramid((1, 1), 4)
    assert Spaces().apply(graph, "s1") is None
    with pytest.raises(Decline, match="spaces has no site 's1' in the network as it is now"):
        Spaces().attempt(graph, "s1")
    with pytest.raises(Decline, match="'s1' has 1 block, floor 1"):  # the pass knows why
        RemoveBlock().attempt(graph, "s1")
    pinned = next(space for space in graph.infer.spaces if not space.resizable)
    with pytest.raises(Decline, match="cannot be resized"):
        PruneChannels(fraction=0.5).attempt(graph, pinned.name)


def test_a_run_keeps_to_the_sites_that_a_pass_lists() -> None:
    graph = pyramid((1, 1), 4)
    assert KeepBlocks().site(graph, WHOLE) == WHOLE
    with pytest.raises(Decline, match="keep-blocks has no site 's1' in the network as it is now; known: 'network'"):
        KeepBlocks().site(graph, "s1")
    with pytest.raises(Decline, match="remove-block has no site 's1' in the network as it is now; did you mean"):
        RemoveBlock().site(graph, "s1")
