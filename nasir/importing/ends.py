"""What an imported network puts out: the user's outputs, the next values of buffers, and calls that matter unread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from nasir.errors import NasirError, TypeRuleError
from nasir.importing.recording import Call, Mode, Recording, Ref, State, Switch, Update
from nasir.importing.switches import Joined, modes_of
from nasir.ir import Draft, Port
from nasir.ir.modes import BOTH, running
from nasir.ir.types import FLOAT


@dataclass(frozen=True, slots=True)
class Ends:
    """Adds to `draft` what a recording puts out. `port` gives where a value is, by its number; `label` a free label;
    `join` makes one value of two of different modes that are `alike`; `buffer` gives the node of a buffer."""

    draft: Draft
    recording: Recording
    port: Callable[[int], Port]
    label: Callable[[str], str]
    alike: Callable[[int, int], bool]
    join: Joined
    buffer: Callable[[State], Port]

    def outputs(self) -> dict[int, int]:
        """Make the user's outputs those of the network; returns which of them each value is.

        The first is the first one of floating-point numbers that there is in both modes: what passes take for logits.
        """
        modes = modes_of(self.recording.outputs)
        ports = {number: self._ended(number, mode) for number, mode in modes.items()}

        def later(number: int) -> tuple[bool, bool]:
            return modes[number] is not None, self.draft.value(self.port(number)).dtype != FLOAT

        order = sorted(modes, key=later)
        for port in dict.fromkeys(ports[number] for number in order):
            self.draft.output(port)
        return {number: self.draft.outputs.index(ports[number]) for number in modes}

    def updates(self, states: Mapping[str, State]) -> None:
        """Let the buffers that forward computes become outputs, which are stored."""
        for update in self.recording.updates:
            state = states.get(update.key)
            if self._is_cache(update, state):
                continue
            if state is None:
                raise NasirError(
                    f"buffer {update.key}: forward makes it in its first call, and nothing is there before; register "
                    "it in __init__ with its final shape"
                )
            self._update(update, state)

    def effects(self, nodes: Iterable[tuple[Call, int]]) -> None:
        """Keep what draws random numbers or changes buffers running, if nobody reads what it puts out: `nodes` are the
        calls with the nodes that they are."""
        reached = running(self.draft.nodes, self.draft.outputs)
        for call, node in nodes:
            if not (call.random or call.updates):
                continue
            opaque = self.draft.nodes[node].facts.foreign
            mode: Mode | None = call.only if call.only or opaque else "train"
            if (frozenset((mode,)) if mode else BOTH) <= reached[node]:
                continue
            self.draft.output(self._in_mode(Port(node), mode))

    def _update(self, update: Update, state: State) -> None:
        own = state.ref.number if state.ref is not None else None
        value = update.value
        mode: Mode | None = None
        if isinstance(value, Switch):
            if not isinstance(value.eval, Ref) or not isinstance(value.train, Ref):
                raise NasirError(f"buffer {update.key}: is there in one mode alone; let it be there in both")
            if own is not None and value.eval.number == own:
                value, mode = value.train, "train"
            elif own is not None and value.train.number == own:
                value, mode = value.eval, "eval"
            else:
                pair = value.eval.number, value.train.number
                value = Ref(self.join(*pair)) if self.alike(*pair) else None
        if not isinstance(value, Ref):
            raise NasirError(f"buffer {update.key}: gets values of different shapes in both modes; let it have one")
        held = self.buffer(state)
        path, _, name = state.key.rpartition(".")
        try:
            port = self.draft.add(
                "assign",
                [held, self.port(value.number)],
                self.label(f"{path}.next_{name}" if path else f"next_{name}"),
            )
            made = self.draft.value(port)
        except TypeRuleError:
            made = None
        if made is None or made.shape != state.shape:
            given = self.draft.value(self.port(value.number))
            raise NasirError(
                f"buffer {update.key}: forward puts {given} in the place of a tensor of shape {state.shape}; register "
                "it with its final shape and type, which no batch size changes"
            )
        self.draft.output(self._in_mode(port, mode))

    def _is_cache(self, update: Update, state: State | None) -> bool:
        """Whether a buffer only keeps numbers that depend on nothing, and which nobody reads from it."""
        read = state is not None and (state.ref is not None or state.persistent)
        values = [update.value] if isinstance(update.value, Ref) else []
        return not read and bool(values) and all(value.number in self.recording.constants for value in values)

    def _ended(self, number: int, mode: Mode | None) -> Port:
        return self._in_mode(self.port(number), mode)

    def _in_mode(self, port: Port, mode: Mode | None) -> Port:
        if mode is None:
            return port
        return self.draft.add("only", [port], self.label(f"{self.draft.nodes[port.node].label}_{mode}"), mode=mode)
