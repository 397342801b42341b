"""Recordings without what nothing needs, their values numbered in the order in which they come to be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from nasir.importing.dependence import with_dependence
from nasir.importing.recording import Call, Recording, Ref, Tree
from nasir.importing.trees import mapped, refs


def compact(recording: Recording) -> Recording:
    """Without calls whose results nobody reads, and with the dependence of every value.

    Calls that draw random numbers stay, so that the others draw the same ones; so do those that change buffers.
    """
    needed = set(refs((recording.outputs, [update.value for update in recording.updates])))
    kept: list[Call] = []
    for call in reversed(recording.calls):
        made = refs(call.result)
        if call.random or call.updates or not needed.isdisjoint(made):
            needed.update(refs((call.args, dict(call.kwargs))), made)
            kept.append(call)
    kept.reverse()
    made_by_calls = [number for call in kept for number in refs(call.result)]
    there = [n for n, value in enumerate(recording.values) if value.origin != "call" and n in needed]
    order = [*there, *made_by_calls]
    number = {old: new for new, old in enumerate(order)}
    moved = renumbered(lambda old: number.get(old, -1))
    small = replace(
        recording,
        arguments=moved(recording.arguments),
        inputs=tuple([replace(entry, ref=_kept(entry.ref, number)) for entry in recording.inputs]),
        state=tuple([replace(entry, ref=_kept(entry.ref, number)) for entry in recording.state]),
        values=tuple([recording.values[old] for old in order]),
        calls=tuple([call_of(call, moved) for call in kept]),
        outputs=moved(recording.outputs),
        updates=tuple([replace(update, value=moved(update.value)) for update in recording.updates]),
        constants={number[old]: array for old, array in recording.constants.items() if old in number},
    )
    depends = with_dependence(small)
    values = [replace(value, depends=found) for value, found in zip(small.values, depends, strict=True)]
    return replace(small, values=tuple(values))


def renumbered(number: Callable[[int], int]) -> Callable[[Tree], Tree]:
    """A function that gives the values in a tree other numbers."""

    def moved(leaf: Tree) -> Tree:
        return Ref(number(leaf.number)) if isinstance(leaf, Ref) else leaf

    return lambda tree: mapped(moved, tree)


def call_of(call: Call, change: Callable[[Tree], Tree]) -> Call:
    """A call whose trees are changed."""
    return replace(call, args=change(call.args), kwargs=change(dict(call.kwargs)), result=change(call.result))


def _kept(ref: Ref | None, number: dict[int, int]) -> Ref | None:
    return Ref(number[ref.number]) if ref is not None and ref.number in number else None
