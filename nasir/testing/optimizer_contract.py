"""What every optimizer owes: options that are checked, a state whose every key says what it is, and a state that goes
through rewrites of the network as if there had been none.

The oracle is training itself. Units that are dead (their weights are zero, so that their gradients are too) and blocks
that are frozen change nothing, so a network that has them for a while has to end with the weights of one that never had
them; so has one whose convolution is cut in two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nasir.blocks import build_block
from nasir.ir import Atom, Draft, Fill, Graph, Port
from nasir.options import options_of
from nasir.registry import optimizers, passes
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.testing.backend_contract import Resize, initial
from nasir.testing.option_laws import as_written, check_options, in_optimizer
from nasir.training.backend import DEFAULT_BACKEND, Session, Setup, make_backend
from nasir.training.optimizers import Optimizer, optimizer_named
from nasir.training.plans import DataPlan, OptimizerPlan, TrainPlan
from nasir.transfer import AxisTake, Key, Take

Weights = Mapping[str, NDArray[Any]]
NARROW, WIDE = (0, 1, 2, 3), (0, -1, 1, 2, -1, 3)  # the units of a space, and the same with two dead ones among them
LIVING = tuple(place for place, unit in enumerate(WIDE) if unit >= 0)


@dataclass(frozen=True)
class AddDead(Pass):
    """Put units into a space that nothing wakes: what writes and what reads them is zero."""

    index: tuple[int, ...] = WIDE

    def sites(self, graph: Graph) -> list[Atom]:
        return [space for space in graph.infer.spaces if space.resizable]

    def rewrite(self, draft: Draft, site: Atom, seen: Evidence) -> None:
        assert draft.base is not None
        draft.select(site, self.index)
        for node, slots in draft.base.infer.slots.items():
            for name, slot in slots.items():
                spaces = [space for space, _ in slot.axes]
                if site in spaces:
                    dead = AxisTake(np.array(self.index), fill=Fill("zeros"))
                    axes = tuple(dead if space is site else None for space in spaces)
                    draft.source(node, name, Take(Key(node, name), axes))


@dataclass(frozen=True)
class Cut(Pass):
    """Turn the convolution "first" into two that write its channels between them."""

    def sites(self, graph: Graph) -> list[str]:
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        assert draft.base is not None
        old = draft.base.labels["first"]
        node, slots = draft.base.nodes[old], draft.base.infer.slots[old]
        made = []
        for label, rows in (("upper", (0, 1)), ("lower", (2, 3))):
            port = draft.add(node.op, node.inputs, label, **{**node.attrs, "out": len(rows)})
            for name, slot in slots.items():
                axes = (AxisTake(np.array(rows)), *[None] * (len(slot.axes) - 1))
                draft.source(port.node, name, Take(Key(old, name), axes))
            made.append(port)
        draft.rewire(Port(old), draft.add("concat", made, "joined"))
        draft.remove(old)


class OptimizerContract:
    """Subclass with `kind`, the name of the optimizer, and `options`, at which it trains.

    `bound`: mean distance of weights that have to be alike, as a share of how far training moved them. `dead_is_dead`:
    whether a weight whose gradients are all zero stays zero and changes no other; not so where an optimizer looks at
    many weights at once, as factored ones do.
    """

    kind: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {"lr": 0.01}
    bound: ClassVar[float] = 0.02
    dead_is_dead: ClassVar[bool] = True

    # -- what the laws are tested on

    def graph(self) -> Graph:
        """Two convolutions, a stage of one block without norms, and a classifier."""
        draft = Draft()
        x = draft.add("input", (), "x", shape=[3, 8, 8])
        for label in ("first", "second"):
            x = draft.add("relu", draft.add("conv2d", x, label, out=4, kernel=3, padding=1, bias=True), f"{label}_relu")
        template = {"block": "preact_basic", "options": {"out": 4, "norm": "none", "branch_scale": "skipinit"}}
        draft.region("s1", "stage", template)
        x = build_block(draft, x, "s1.0", template, stride=1)
        draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=3))
        return draft.commit()

    def plan(self, **changes: Any) -> TrainPlan:
        """Of training with the optimizer in full precision."""
        optimizer = OptimizerPlan(self.kind, options=self.options)
        return TrainPlan(optimizer, **{"precision": "fp32", "batch_size": 16, **changes})

    @contextmanager
    def session(self, folder: Path) -> Iterator[Session]:
        """A session on the CPU, without a network yet."""
        options = {"classes": 3, "size": 8, "channels": 3, "train": 96, "test": 24}
        data = DataPlan("synthetic", options, batch_size=16, validation=24)
        setup = Setup(data, folder, seed=3, device="cpu", precision="fp32", probe=16)
        session: Session = make_backend(DEFAULT_BACKEND).open(setup)
        try:
            yield session
        finally:
            session.close()

    def trained(self, folder: Path, acts: Sequence[Callable[[Session, Graph], Graph]]) -> tuple[Weights, Weights]:
        """The weights after the first epoch, and after one more following each of `acts`."""
        with self.session(folder) as session:
            graph = self.graph()
            session.build(graph, initial(graph))
            session.begin_phase(self.plan(), 8, resumed=False)
            for epoch, act in enumerate((None, *acts)):
                if act is not None:
                    graph = act(session, graph)
                stretch = session.train(epoch, epoch, None, lambda: False)
                assert stretch.finished
                if epoch == 0:
                    before = self.weights(session, graph)
            return before, self.weights(session, graph)

    def weights(self, session: Session, graph: Graph) -> Weights:
        """All of them by name."""
        seen = session.observe([Need("weights")])
        slots = graph.infer.slots
        return {
            f"{graph.nodes[node].label}.{name}": np.array(seen.weight(graph.nodes[node].label, name))
            for node in graph.nodes
            for name in slots[node]
        }

    def alike(self, before: Weights, wanted: Weights, actual: Weights) -> None:
        """The weights of `wanted` are those of `actual`, as far as training moved them from `before`."""
        moves = {name: float(abs(array - before[name]).mean()) for name, array in wanted.items()}
        usual = sum(moves.values()) / len(moves)
        assert usual > 0, "nothing was trained"
        for name, array in wanted.items():
            moved = max(moves[name], usual)  # a single weight may have gone back and forth
            error = float(abs(array - actual[name]).mean())
            assert error <= self.bound * moved, (
                f"{name} ends {error / moved:.3f} of its way from where it ends without the rewrite: the state of "
                f"{self.kind} did not follow its weights; see what `state` says of each key"
            )

    # -- the laws

    def test_options_refuse_what_their_annotations_do_not_allow(self) -> None:
        """A foreign word, a wrong type, a number that is not finite or out of range: alike in Python and in a spec."""
        made: type[Optimizer] = optimizer_named(self.kind)
        from_spec = in_optimizer(self.kind) if optimizers.installed(self.kind) else as_written(made, "optimizer")
        check_options(options_of(made), lambda given: OptimizerPlan(self.kind, options=given), from_spec, self.options)

    def test_every_key_of_the_state_says_what_it_is(self, tmp_path: Path) -> None:
        """A checkpoint after one epoch holds state, and refuses keys that `state` does not name."""
        with self.session(tmp_path) as session:
            graph = self.graph()
            session.build(graph, initial(graph))
            session.begin_phase(self.plan(), 8, resumed=False)
            session.train(0, 0, None, lambda: False)
            session.export(tmp_path / "kept", 1, {"ordinal": 0})

    def test_a_checkpoint_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        weights = []
        for resumed in (False, True):
            with self.session(tmp_path) as session:
                graph = self.graph()
                if resumed:
                    saved = session.newest(tmp_path / "kept")
                    assert saved is not None
                    session.load(saved, graph)
                else:
                    session.build(graph, initial(graph))
                session.begin_phase(self.plan(), 8, resumed=resumed)
                if not resumed:
                    session.train(0, 0, None, lambda: False)
                    session.export(tmp_path / "kept", 1, {"ordinal": 0})
                session.train(1, 1, None, lambda: False)
                weights.append(self.weights(session, graph))
        for name, array in weights[0].items():
            assert np.array_equal(array, weights[1][name]), f"{name} differs after a checkpoint"

    def test_dead_units_that_come_and_go_leave_no_trace(self, tmp_path: Path) -> None:
        """The state of what stays follows a widened and a pruned space."""
        if not self.dead_is_dead:
            return
        before, wanted = self.trained(tmp_path, [_nothing, _nothing])
        _, actual = self.trained(tmp_path, [_resized(AddDead()), _resized(Resize(LIVING))])
        self.alike(before, wanted, actual)

    def test_a_frozen_block_that_comes_and_goes_leaves_no_trace(self, tmp_path: Path) -> None:
        """The state of what stays is untouched when blocks are inserted and removed."""

        def insert(session: Session, graph: Graph) -> Graph:
            grown = _accepted(session, passes.get("insert-block")(init="zero").attempt(graph, "s1"))
            session.begin_phase(self.plan(freeze=("s1.1",)), 8, resumed=False)
            return grown

        def remove(session: Session, graph: Graph) -> Graph:
            rest = _accepted(session, passes.get("remove-block")().attempt(graph, "s1.1"))
            session.begin_phase(self.plan(), 8, resumed=False)
            return rest

        before, wanted = self.trained(tmp_path, [_nothing, _nothing])
        _, actual = self.trained(tmp_path, [insert, remove])
        self.alike(before, wanted, actual)

    def test_a_convolution_that_is_cut_in_two_trains_as_before(self, tmp_path: Path) -> None:
        """The state goes where the values go."""
        if not self.dead_is_dead:
            return
        before, wanted = self.trained(tmp_path, [_nothing, _nothing])
        _, actual = self.trained(tmp_path, [lambda s, graph: _accepted(s, Cut().attempt(graph, WHOLE)), _nothing])
        halves = {
            f"first.{name}": [actual[f"{half}.{name}"] for half in ("upper", "lower")] for name in ("weight", "bias")
        }
        self.alike(before, wanted, {**actual, **{name: np.concatenate(both) for name, both in halves.items()}})


def _nothing(session: Session, graph: Graph) -> Graph:
    return graph


def _resized(rule: Pass) -> Callable[[Session, Graph], Graph]:
    """Acts on the output space of "first"."""

    def act(session: Session, graph: Graph) -> Graph:
        site = next(space for space in graph.infer.spaces if space.name == "first")
        return _accepted(session, rule.attempt(graph, site))

    return act


def _accepted(session: Session, rewrite: Any) -> Graph:
    effect = session.propose(rewrite)
    session.accept()
    assert effect.delta_logits < 1e-4, "the rewrite of the contract is exact"
    graph: Graph = rewrite.graph
    return graph
