"""Penalties: terms of the loss that act on weights or see the forward pass. What each declares in one place, and the
plan that names one.

A penalty is a frozen dataclass that `nasir.registry.penalties` knows by name: its fields are its options. The simplest
adds `value`, a function of the weights that it acts on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import MinLen, doc

from nasir.ir import Graph
from nasir.options import Checked, construct
from nasir.options.ranges import NotNegative
from nasir.options.texts import Label
from nasir.registry import penalties
from nasir.training.optimizers import given_over
from nasir.transfer import Key

Labels = Annotated[tuple[Label, ...], doc("of nodes or regions; all below them counts")]
"""Labels of nodes or regions, such as `s1` or `s1.0.conv1`."""


INITIAL, PREVIOUS = "initial", "previous"
"""Teachers: the network as it was when the run began, and when the phase began."""


@dataclass(frozen=True, kw_only=True)
class Penalty(Checked):
    """Base of a penalty: subclass it as a frozen dataclass, and register that.

    Either it has `value(weights)`, the term without `strength`, which the backend differentiates, unless it has
    `gradient(weights)` too. Or it has a `term`: a class, or "module:name" of one, which the backend makes for each
    graph as `term(graph, penalty, device)`. Its `add_gradients(fetch)` adds to `.grad` of the arrays that
    `fetch(key)` gives, and returns the value with `strength`, or None.

    `selects`: units die under it; its term then has `alive(fetch)`, which are alive by name of the space. `labels`: the
    options that hold labels of the network.

    `sees`: "weights", or "forward": the term has a value that depends on what the network computes of a batch, and is
    differentiated with the loss. Its `term` then has `watching(model)`, a context manager that the forward pass runs
    in, and `loss(forward)`, which gives the value with `strength`, or None; see
    `nasir.backends.torch.penalties.forward.ForwardPass`.
    """

    name: ClassVar[str] = ""
    term: ClassVar[Any] = None
    selects: ClassVar[bool] = False
    sees: ClassVar[Literal["weights", "forward"]] = "weights"
    labels: ClassVar[tuple[str, ...]] = ()

    strength: Annotated[NotNegative, doc("what the term is multiplied by")]

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By its name."""
        return f"penalty {cls.name}"

    @property
    def taught_by(self) -> str | None:
        """The network that it compares the predictions of a batch with, which its option `teacher` names: PREVIOUS,
        INITIAL or the directory of a run; None where it has no such option."""
        return getattr(self, "teacher", None)

    def slots(self, graph: Graph) -> list[Key]:
        """The weights that it acts on, in topological order: kernels, of convolutions and linear layers."""
        return weights_of(graph, "kernels")

    def value(self, weights: Sequence[Any]) -> Any:
        """The term, a tensor of one number, of the weights of `slots`."""
        raise NotImplementedError

    def gradient(self, weights: Sequence[Any]) -> Sequence[Any]:
        """Its gradient for each of the weights, where that is quicker than differentiating `value`."""
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """Its options as data, for digests."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class WeightPenalty(Penalty):
    """Base of a penalty on weights that its option `on` names."""

    labels = ("on",)

    on: Annotated[
        Literal["kernels", "all"] | Annotated[Labels, MinLen(1)],
        doc("weights of convolutions and linear layers, all parameters, or kernels by label"),
    ] = "kernels"

    def slots(self, graph: Graph) -> list[Key]:
        return weights_of(graph, self.on)


def weights_of(graph: Graph, on: str | Sequence[str]) -> list[Key]:
    """Parameters in topological order: "all"; "kernels", also those below some labels; or kernels of "convs", or of
    those in "blocks"."""
    blocks = {node_id for block in graph.blocks for node_id in graph.members(block.path)}
    keys = []
    for node_id in graph.order:
        for name, slot in graph.infer.slots[node_id].items():
            if slot.kind != "param":
                continue
            kernel, convolution = slot.is_kernel, slot.is_convolution
            if not isinstance(on, str):
                wanted = kernel and graph.below(node_id, on)
            else:
                wanted = {
                    "all": True,
                    "kernels": kernel,
                    "convs": convolution,
                    "blocks": convolution and node_id in blocks,
                }[on]
            if wanted:
                keys.append(Key(node_id, name))
    return keys


def penalty_named(name: str) -> type[Penalty]:
    """The definition of a penalty; raises UnknownName, or UsageError where it is not one."""
    return penalties.subclass(name, Penalty, _fault)


def _fault(made: type[Penalty]) -> str:
    if made.sees == "forward" and made.term is None:
        return "sees the forward pass, but has no `term` that computes it"
    if made.term is None and made.value is Penalty.value:
        return "has neither a `value` nor a `term`"
    return "selects units, but has no `term` that says which are alive" if made.selects and made.term is None else ""


_NONE: Mapping[str, Any] = {}
_COMMON = {
    "on": "",
    "resource": "flops",
    "threshold": 0.01,
    "l1": 0.0,
    "grouping": "max",
    "exclude": (),
    "roofline": None,
    "batch": 1,
}


@dataclass(frozen=True, slots=True, init=False)
class PenaltyPlan:
    """A penalty by name and its options, which are attributes of the plan too.

    Raises UnknownName for a name that nothing is registered by, OptionError for options that are unknown or do not fit.
    """

    kind: str
    options: Penalty

    def __init__(
        self, kind: str, strength: float | None = None, *, options: Penalty | Mapping[str, Any] = _NONE, **given: Any
    ) -> None:
        """Options by name, over those of a mapping or of another plan: `dataclasses.replace` changes single ones."""
        options = given_over(options, given if strength is None else {"strength": strength, **given})
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "options", construct(penalty_named(kind), options, f"penalty {kind}"))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "options":
            raise AttributeError(name)
        return getattr(self.options, name)

    @property
    def taught_by(self) -> str | None:
        """See `Penalty.taught_by`."""
        return self.options.taught_by

    def identity(self) -> dict[str, Any]:
        """As data, for digests: with the options that all penalties had in common before each had its own."""
        return {**_COMMON, **self.options.identity(), "kind": self.kind}
