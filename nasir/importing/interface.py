"""How an imported network is called and what it returns: the user's arguments and outputs around a graph's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nasir.importing.data import tree_from_data, tree_to_data
from nasir.importing.recording import Recording, Ref, Tree
from nasir.importing.trees import mapped, names_in
from nasir.ir import JSON

UNREAD = -1
"""The number of a tensor that is passed in and that nothing reads."""


@dataclass(frozen=True, slots=True)
class Interface:
    """The arguments with Ref(n) in the place of the graph's input n, Ref(UNREAD) for a tensor that nothing reads; the
    outputs with Ref(n) for its output n.

    `args`: those that can be passed by position only; `kwargs`: all others by name. `names`: of the parameters that may
    be passed by position as well, in order. `batched`: which inputs have the batch as their first axis;
    `ends`: how many outputs the graph returns.
    """

    args: tuple[Tree, ...]
    kwargs: Mapping[str, Tree]
    outputs: Tree
    names: tuple[str, ...] = ()
    batched: tuple[bool, ...] = (True,)
    ends: int = 1

    @property
    def plain(self) -> bool:
        """Whether it adds nothing to a graph: its inputs by position, its output, or the tuple of several of them."""
        given = [Ref(number) for number in range(len(self.batched))]
        passed = [self.kwargs.get(name) for name in self.names[: len(given)]]
        if self.args or len(self.kwargs) != len(given) or passed != given or not all(self.batched):
            return False
        ends = tuple([Ref(number) for number in range(self.ends)])
        return bool(self.outputs == (ends if self.ends > 1 else ends[0]))

    @property
    def kinds(self) -> frozenset[str]:
        """Names of the classes and constants of libraries in it."""
        return frozenset(names_in((self.args, dict(self.kwargs), self.outputs)))

    def to_json(self) -> dict[str, JSON]:
        """The interface as JSON data. TypeError where it holds arrays."""
        trees = {name: tree_to_data(getattr(self, name)) for name in ("args", "outputs")}
        return {
            **trees,
            "kwargs": tree_to_data(dict(self.kwargs)),
            "names": [*self.names],
            "batched": [*self.batched],
            "ends": self.ends,
        }

    @staticmethod
    def from_json(data: Mapping[str, JSON]) -> Interface:
        """Inverse of `to_json`; raises TextFormatError, and KeyError or TypeError for data of another form."""
        return Interface(
            args=tuple(tree_from_data(data["args"])),
            kwargs=dict(tree_from_data(data["kwargs"])),
            outputs=tree_from_data(data["outputs"]),
            names=tuple(data["names"]),
            batched=tuple(data["batched"]),
            ends=int(data["ends"]),
        )


def interface_of(
    recording: Recording, names: Sequence[str], inputs: Mapping[int, int], outputs: Mapping[int, int], ends: int
) -> Interface:
    """The interface of a recording; `names`: of the parameters that may be passed by position, `inputs` and `outputs`:
    which of the graph's a value is, by its number; `ends`: how many it returns."""
    args, kwargs = _renumbered(recording.arguments, inputs)
    batched = {entry.ref.number: entry.batched for entry in recording.inputs if entry.ref is not None}
    order = sorted((position, number) for number, position in inputs.items())
    return Interface(
        args=args[len(names) :],
        kwargs={**dict(zip(names, args, strict=False)), **kwargs},
        outputs=_renumbered(recording.outputs, outputs),
        names=tuple(names),
        batched=tuple([batched[number] for _, number in order]),
        ends=ends,
    )


def _renumbered(tree: Tree, numbers: Mapping[int, int]) -> Tree:
    return mapped(lambda leaf: Ref(numbers.get(leaf.number, UNREAD)) if isinstance(leaf, Ref) else leaf, tree)
