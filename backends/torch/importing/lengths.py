"""Lengths of tensors that follow numbers, not only shapes: how many entries are not zero, how many a mask picks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nasir.importing.recording import Call, Ref, Value
from nasir.importing.trees import leaves, refs

DATA_SIZED = frozenset("nonzero argwhere masked_select unique unique_consecutive bincount".split())
"""Last names of functions whose result is as long as the numbers of their operand say."""


class Lengths:
    """Which values of a run have axes whose lengths follow the numbers of others, and how long those are."""

    def __init__(self) -> None:
        self._of: dict[int, frozenset[int]] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._of

    def __bool__(self) -> bool:
        return bool(self._of)

    def note(self, call: Call, values: Sequence[Value], results: Sequence[tuple[int, Tensor]]) -> None:
        """Take in a call: results of other calls have such axes where an operand has one of the same length."""
        read = refs((call.args, dict(call.kwargs)))
        inherited = frozenset().union(*[self._of[number] for number in read if number in self._of])
        own = _is_data_sized(call, values)
        if not own and not inherited:
            return
        shapes = {axis for number in read for axis in values[number].shape}
        for number, tensor in results:
            lengths = set(tensor.shape) & inherited
            if own and tensor.ndim:
                lengths |= (set(tensor.shape) - shapes) or {tensor.shape[0]}
            if lengths:
                self._of[number] = frozenset(lengths)


def _is_data_sized(call: Call, values: Sequence[Value]) -> bool:
    name = call.operation.rpartition(".")[2]
    if call.module is not None:
        return False
    if name == "__getitem__":
        picking = [leaf for _, leaf in leaves(call.args[1:]) if isinstance(leaf, Ref)]
        return any(values[ref.number].dtype in ("bool", "uint8") for ref in picking)
    if name == "where":
        return len(call.args) == 1 and not call.kwargs
    if name == "repeat_interleave":
        return len(call.args) < 2 or isinstance(call.args[1], Ref)
    return name in DATA_SIZED
