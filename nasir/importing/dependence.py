"""What the numbers of a value depend on: inputs, parameters, buffers, the random generator, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from nasir.importing.recording import Call, Recording, Source, State
from nasir.importing.trees import refs

SHAPES_ONLY = frozenset(
    f"{kind}_like" for kind in ("zeros", "ones", "full", "empty", "rand", "randn", "randint")
) | frozenset(f"new_{kind}" for kind in ("zeros", "ones", "full", "empty", "tensor"))
"""Last names of functions that take nothing from their first operand but shape, dtype and device."""

Held = Callable[[str], frozenset[Source]]


def held_by(state: Iterable[State]) -> Held:
    """A function that says which kinds of state lie in a module, by its path."""
    kinds: dict[str, set[Source]] = {}
    for entry in state:
        for key in (entry.key, *entry.aliases):
            path = key
            while path:
                path = path.rpartition(".")[0]
                kinds.setdefault(path, set()).add(entry.kind)
    frozen = {path: frozenset(found) for path, found in kinds.items()}
    return lambda path: frozen.get(path, frozenset())


def shape_only(call: Call) -> frozenset[int]:
    """Numbers of the operands of which the call reads the shape alone."""
    first = call.module is None and call.operation.rpartition(".")[2] in SHAPES_ONLY
    return frozenset(refs(call.args[:1])) - frozenset(refs(call.args[1:])) if first else frozenset()


def type_only(call: Call) -> frozenset[int]:
    """Numbers of the operands of which the call reads only dtype and device: it is told the shape."""
    return shape_only(call) if call.operation.rpartition(".")[2].startswith("new_") else frozenset()


def sources_of(call: Call, depends: Sequence[frozenset[Source]], held: Held) -> frozenset[Source]:
    """What the results of a call depend on; `depends` says it of the values that are there already."""
    read = set(refs((call.args, dict(call.kwargs)))) - shape_only(call)
    found = set().union(*[depends[number] for number in read])
    if call.random:
        found.add("random")
    if call.module is not None:
        found |= held(call.module)
    return frozenset(found)


def with_dependence(recording: Recording) -> tuple[frozenset[Source], ...]:
    """What every value of the recording depends on."""
    depends: list[frozenset[Source]] = [
        frozenset() if value.origin == "call" or value.origin == "constant" else frozenset((value.origin,))
        for value in recording.values
    ]
    held = held_by(recording.state)
    for call in recording.calls:
        found = sources_of(call, depends, held)
        for number in refs(call.result):
            depends[number] = found
    return tuple(depends)
