"""A recording as a typed graph: calls with a rule become ops, all others opaque nodes, which pin what they touch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast, get_args

from nasir.errors import NasirError, TypeRuleError
from nasir.importing.compact import call_of, renumbered
from nasir.importing.data import call_to_json
from nasir.importing.dependence import type_only
from nasir.importing.ends import Ends
from nasir.importing.interface import Interface, interface_of
from nasir.importing.likes import without_likes
from nasir.importing.recording import Batch, Call, Mode, Recording, Ref, State, Structure, Value
from nasir.importing.regions import declare
from nasir.importing.rules import Place, Typed, typed
from nasir.importing.switches import of_mode, with_joined
from nasir.importing.trees import leaves, refs
from nasir.ir import Draft, Graph, Port, ValueType, op_named
from nasir.ir.regions import paths_above
from nasir.ir.types import FLOAT, DType, Slot
from nasir.transfer import Key

SAFER = {"torch.Tensor.view": "torch.Tensor.reshape"}
"""What does the same wherever the first works, and needs no memory layout, which ops before it do not promise."""
VALUE = "value"  # the weight of a node that puts out one
PARTS = {"activation": "act", "passive": "drop"}
"""What a node of such a family is called behind another one of the same call."""
ROOT = "self"  # label of what belongs to the module as a whole


@dataclass(slots=True)
class Lifted:
    """`graph`; where each weight of it is, by node and name: a key of the module's state, or the number of a constant;
    `modules`: paths of the leaf modules that nodes are, as they are; `over`: the nodes whose result the module writes
    over their first input."""

    graph: Graph
    state: dict[Key, str] = field(default_factory=dict)
    constants: dict[Key, int] = field(default_factory=dict)
    modules: dict[int, str] = field(default_factory=dict)
    over: set[int] = field(default_factory=set)
    opaque: dict[int, Call] = field(default_factory=dict)
    interface: Interface = field(default_factory=lambda: Interface((), {}, Ref(0)))


def lift(
    recording: Recording,
    macs: Callable[[Call], int | None] = lambda call: None,
    names: Sequence[str] = (),
    taken: Collection[str] = (),
) -> Lifted:
    """The graph of a recording; `macs` counts the multiply-accumulates that opaque calls take for one sample, `names`
    are those of the parameters that may be passed by position, `taken` those that no part of a module can have.

    Raises NasirError for what no graph can say, with module and line.
    """
    return _Lift(without_likes(recording), macs, taken).run(names)


class _Lift:
    def __init__(self, recording: Recording, macs: Callable[[Call], int | None], taken: Collection[str]) -> None:
        self.recording, self.macs, self.taken = recording, macs, taken
        self.draft = Draft()
        self.ports: dict[int, Port] = {}
        self.labels: set[str] = set()
        self.lifted = Lifted(Graph({}, (), {}, 0))
        self.keys = {key: state for state in recording.state for key in (state.key, *state.aliases)}
        self.read = {state.ref.number: state for state in recording.state if state.ref is not None}  # by functions
        self.owners: dict[str, Key] = {}  # of each key of the state, the node that has it
        floats = [state.dtype for state in recording.state if state.kind == "parameter" and "float" in state.dtype]
        self.native = floats[0] if floats else FLOAT  # in which the network computes
        parts = [call.scope[-1].label for call in recording.calls if call.module] + list(self.keys)
        parts = [self._place(part) for part in parts]
        self.reserved = {path for part in parts for path in (part, *paths_above([part]))}  # for modules and weights
        self.inputs: list[int] = []  # numbers of the inputs that something reads
        self.values = list(recording.values)  # and those that are one value in evaluation, another one in training
        calls = [(call.args, dict(call.kwargs)) for call in recording.calls]
        self.wanted = frozenset(refs((calls, recording.outputs, [update.value for update in recording.updates])))
        self.either: dict[tuple[int, int], int] = {}
        self.made: list[tuple[Call, int]] = []  # calls with the nodes that they are

    def run(self, names: Sequence[str]) -> Lifted:
        for number, given in enumerate(self.recording.inputs):
            self._input(number, given.path, given.ref, given.batched)
        if not self.inputs:
            raise NasirError("the module reads no numbers of what it is called with, so there is nothing to import")
        for call in self.recording.calls:
            self._call(call)
        ends = Ends(self.draft, self.recording, self._port, self._label, self._alike, self._joined, self._buffer)
        outputs = ends.outputs()
        ends.updates(self.keys)
        ends.effects(self.made)
        self._names()
        declare(self.draft, self.recording, self._place)
        self.lifted.graph = self.draft.commit()
        inputs = {number: position for position, number in enumerate(self.inputs)}
        answers = len(self.lifted.graph.answers)
        self.lifted.interface = interface_of(self.recording, names, inputs, outputs, answers)
        return self.lifted

    # -- where values come from

    def _input(self, number: int, path: str, ref: Ref | None, batched: bool) -> None:
        if ref is None:  # the interface drops what nothing reads
            return
        value = self._type(self.recording.values[ref.number])
        if value is None or (value.batch != 1 if batched else value.batch):
            raise NasirError(
                f"input {path}: the batch is not its first axis; turn it in call=lambda module, *args: ..., and pass "
                "the example with the batch first"
            )
        label = self._label("x" if len(self.recording.inputs) == 1 else f"x{number}", self.reserved)
        self.inputs.append(ref.number)
        self.ports[ref.number] = self.draft.add(
            "input", (), label, shape=value.shape, dtype=value.dtype, shared=not batched
        )

    def _port(self, number: int, start: float = 0.0) -> Port:
        """Where a value is. Parameters, buffers and constants are nodes from the first time that one is asked for, so
        that spaces are named after the layer that writes them; `start`: what new entries of such a weight are."""
        if number not in self.ports:
            self._weight(number, start)
        return self.ports[number]

    def _weight(self, number: int, start: float) -> None:
        value, state = self._value(number), self.read.get(number)
        label = self._label(f"constants.c{number}" if state is None else state.key)
        learned = state is not None and state.kind == "parameter"
        stored = state is not None and state.persistent
        facts = {"dtype": self._dtype(value.dtype), "learned": learned, "start": start, "stored": stored}
        self.ports[number] = port = self.draft.add("parameter", (), label, shape=value.shape, **facts)
        if state is None:
            self.lifted.constants[Key(port.node, VALUE)] = number
        else:
            self._own(Key(port.node, VALUE), state.key)

    def _known(self, number: int) -> ValueType:
        """The type of a value, or of what its weight will be."""
        if number in self.ports:
            return self.draft.value(self.ports[number])
        value = self._type(self._value(number))
        assert value is not None
        return value

    def _buffer(self, state: State) -> Port:
        """The node that puts out a buffer, whether a call reads it or not."""
        if state.ref is not None:
            return self._port(state.ref.number)
        self.values.append(Value("buffer", state.key, state.shape, state.dtype))
        self.read[len(self.values) - 1] = state
        return self._port(len(self.values) - 1)

    # -- calls

    def _call(self, call: Call) -> None:
        """Add a call: two where it takes other values in training than in evaluation, which are not of one type."""
        whole = with_joined(call, self._alike, self._joined)
        if whole is not None:
            self._add_call(whole, call)
            return
        results = refs(call.result)
        parts = []
        for mode in get_args(Mode):
            numbers = {number: self._again(number) for number in results}
            part = replace(of_mode(call, mode), result=renumbered(numbers.__getitem__)(call.result))
            self._add_call(part, part)
            parts.append(numbers)
        for number in results:
            if number in self.wanted:
                self.ports[number] = self.ports[self._joined(parts[0][number], parts[1][number])]

    def _add_call(self, call: Call, recorded: Call) -> None:
        """Add a call of values that are joined, and was `recorded` with others in each mode."""
        node = self._typed(call)
        self.made.append((call, self._opaque(call, recorded) if node is None else node))

    def _again(self, number: int) -> int:
        self.values.append(self.values[number])
        return len(self.values) - 1

    def _alike(self, evaluated: int, trained: int) -> bool:
        """Whether two values are of one type."""
        one, other = self._known(evaluated), self._known(trained)
        return (one.shape, one.dtype, one.batch) == (other.shape, other.dtype, other.batch)

    def _joined(self, evaluated: int, trained: int) -> int:
        """One value for two of different modes that are alike."""
        if (evaluated, trained) not in self.either:
            ports = [self._port(evaluated), self._port(trained)]
            path = self.draft.nodes[ports[1].node].label.rpartition(".")[0]
            number = self._again(evaluated)
            self.values[number] = replace(self.values[number], origin="call", name="either")
            self.ports[number] = self.draft.add(
                "either", ports, self._label(f"{path}.either" if path else "either", self.reserved)
            )
            self.either[evaluated, trained] = number
        return self.either[evaluated, trained]

    def _typed(self, call: Call) -> int | None:
        """Add the op that a call is; None where it is none, which node it is else."""
        operands, results = refs((call.args, dict(call.kwargs))), refs(call.result)
        given = [made for number in results if (made := self._type(self._value(number))) is not None]
        untyped = len(given) < len(results) or any(self._type(self._value(number)) is None for number in operands)
        if not results or untyped:
            return None
        for axis in (None, *self._channel_axes(operands)):
            found = typed(Place(call, partial(self._laid_out, axis), self._held(call), tuple(given)))
            if found is not None and self._fits(found, operands):
                break
        else:
            return None
        node = self._add(call, found, axis)
        if node is None:
            return None
        if call.over:
            self.lifted.over.add(node)
        for output, (number, wanted) in enumerate(zip(results, given, strict=True)):
            port = Port(node, output)
            made = self.draft.value(port)
            if (made.shape, made.batch, made.dtype) != (wanted.shape, wanted.batch, wanted.dtype):
                raise NasirError(
                    f"{call.place}: {found.op} gives {made}, and the module {wanted}: nasir's rule is wrong"
                )
            self.ports[number] = port
        return node

    def _channel_axes(self, operands: Sequence[int]) -> list[int]:
        """Which axis may hold the channels of the operands, as the call sees them, if not the one that did so far."""
        values = [value for value in map(self._known, operands) if value.batch and value.axes]
        known = [value.channel_axis for value in values]
        return [axis for axis in dict.fromkeys((*known, 0, *[len(v.axes) - 1 for v in values])) if {axis} != {*known}]

    def _laid_out(self, axis: int | None, number: int) -> ValueType:
        """The type of a value whose channels are on that axis; None: where they are."""
        value = self._known(number)
        if axis is None or not value.batch or axis >= len(value.axes):
            return value
        return ValueType(value.axes, axis, value.dtype, value.batch)

    def _fits(self, found: Typed, operands: list[int]) -> bool:
        """Whether a rule has a place for every weight among the operands, and its op takes the inputs."""
        weights = {number for number in operands if self._value(number).origin in ("parameter", "buffer", "constant")}
        own = {*found.weights.values()}
        if not weights <= own.union(found.inputs) or not own <= self.read.keys():
            return False
        takes, types = op_named(found.op).takes, [self._known(number) for number in found.inputs]
        batched = "unbatched" in takes or all(value.batch for value in types)
        if "rows" not in takes and len({value.batch for value in types} - {0}) > 1:
            return False
        return batched and ("integers" in takes or all(value.dtype == FLOAT for value in types))

    def _add(self, call: Call, found: Typed, axis: int | None) -> int | None:
        """The node of a call whose operands have their channels on `axis`; None where its op's weights are not just
        those that the call has, or it does not take values of these types."""
        facts = op_named(found.op)
        start = 1.0 if facts.family in ("product", "elementwise") else 0.0  # it may divide
        inputs = [self._port(number, start) for number in found.inputs]
        label, first = self._label_of(call), self.draft.minted
        for place, number in enumerate(found.inputs):
            wanted = self._laid_out(axis, number).channel_axis
            if wanted != self.draft.value(inputs[place]).channel_axis:
                name = self._label(f"{label}_layout")
                inputs[place] = self.draft.add("layout", inputs[place], name, channel_axis=wanted)
        node = self.draft.add(found.op, inputs, label, **found.attrs).node
        own = {name: self.read[number] for name, number in found.weights.items()}
        try:
            slots = self.draft.slots(node)
            fits = call.module is not None or (
                slots.keys() == own.keys() and all(self._holds(slots[name], state) for name, state in own.items())
            )
        except TypeRuleError:
            fits = False
        if not fits:
            self.labels.difference_update(self.draft.nodes[n].label for n in range(first, node + 1))
            self.draft.retract(first)
            return None
        if call.module is not None:
            holds = any(isinstance(value, Structure) for value in call.attributes.values())
            self._leaf(call, node, whole=not (found.then or holds))
        for name, state in own.items():
            self._own(Key(node, name), state.key)
        for op, attrs in found.then:
            part = PARTS.get(op_named(op).family or "")
            node = self.draft.add(op, Port(node), self._label(f"{label}_{part or op}"), **attrs).node
        return node

    def _holds(self, slot: Slot, state: State) -> bool:
        """Whether a weight of an op may be this one of the module."""
        kind = "parameter" if slot.kind == "param" else "buffer"
        return (kind, slot.shape) == (state.kind, state.shape) and slot.dtype == self._dtype(state.dtype)

    def _names(self) -> None:
        """Name the weights whose keys in the user's `state_dict` are not the labels and slots of the nodes."""
        users: dict[Key, list[Key]] = {owner: [owner] for owner in self.owners.values()}
        for key, owner in self.draft.ties.items():
            users[owner].append(key)
        for name, owner in self.owners.items():
            state = self.keys[name]
            wanted = (state.key, *state.aliases)
            usual = [f"{self.draft.nodes[key.node].label}.{key.slot}" for key in users[owner]]
            if state.persistent and sorted(wanted) != sorted(usual):
                self.draft.name(owner, *wanted)

    def _leaf(self, call: Call, node: int, whole: bool) -> None:
        """Say that a node is a leaf module, or has the weights of one that is more than the node (not `whole`), or
        that it uses the weights of one that was called before."""
        assert call.module is not None
        slots = self.draft.slots(node)
        for name in slots:
            key = f"{call.module}.{name}" if call.module else name
            self._own(Key(node, name), self.keys[key].key)
        if whole and call.module not in self.lifted.modules.values():  # else it uses the weights of the call before
            self.lifted.modules[node] = call.module

    def _own(self, weight: Key, key: str) -> bool:
        """Note where a weight is; True where another node has it already, which then owns it."""
        if key in self.owners:
            self.draft.tie(weight, self.owners[key])
            return True
        self.owners[key] = weight
        self.lifted.state[weight] = key
        return False

    def _held(self, call: Call) -> frozenset[str]:
        """Names of the parameters and buffers of the leaf module that is called."""
        if call.module is None:
            return frozenset()
        prefix = f"{call.module}." if call.module else ""
        return frozenset(key.removeprefix(prefix) for key in self.keys if key.startswith(prefix))

    def _opaque(self, call: Call, recorded: Call) -> int:
        operands = list(dict.fromkeys(refs((call.args, dict(call.kwargs)))))
        sized = any(isinstance(leaf, Batch) for _, leaf in leaves((call.args, dict(call.kwargs))))
        telling = next((number for number in operands if self._tells_batch(number)), None)
        if (sized and telling is None) or not operands:
            telling = self._witness(call, sized)
            operands.append(telling)
        results = refs(call.result)
        held = sorted(self._held(call))
        states = [self.keys[f"{call.module}.{name}" if call.module else name] for name in held]
        numbers = {number: position for position, number in enumerate((*operands, *results))}
        operation = SAFER.get(call.operation, call.operation)
        plain = replace(call_of(call, renumbered(numbers.__getitem__)), operation=operation)
        try:
            text = call_to_json(plain)
        except TypeError as error:
            raise NasirError(
                f"{call.place}: takes what no graph can hold ({error}); make it a buffer of the module, or make the "
                "module around it one call by leaves=[Class]"
            ) from None
        values = [self._loose(self._value(number)) for number in results]
        label = self._label_of(call)
        try:
            node = self.draft.add(
                "opaque",
                [self._port(number) for number in operands],
                label,
                call=text,
                runs=call.operation,
                shapes=[value.shape for value in values],
                dtypes=[value.dtype for value in values],
                rows=[value.batch for value in values],
                live=call.module is not None,
                weights=held,
                weight_shapes=[state.shape for state in states],
                weight_dtypes=[state.dtype for state in states],
                buffers=[name for name, state in zip(held, states, strict=True) if state.kind == "buffer"],
                passing=[name for name, state in zip(held, states, strict=True) if not state.persistent],
                sized_by=operands.index(telling) if sized and telling is not None else None,
                unread=[number for number, operand in enumerate(operands) if operand in type_only(call)],
                macs=self.macs(recorded),
            ).node
        except TypeRuleError as error:
            raise NasirError(
                f"{call.place}: gives what no graph can say ({error}); make the module around it one call by "
                "leaves=[Class], or leave it out by call=lambda module, *args: ..."
            ) from None
        for output, number in enumerate(results):
            self.ports[number] = Port(node, output)
        self.lifted.opaque[node] = call
        if call.module is not None:
            self.lifted.modules[node] = call.module
            for name, state in zip(held, states, strict=True):
                self._own(Key(node, name), state.key)
        return node

    def _tells_batch(self, number: int) -> bool:
        """Whether the length of the first axis of a value tells how large the batch is."""
        value = self._type(self._value(number))
        return value is not None and value.batch > 0

    def _witness(self, call: Call, sized: bool) -> int:
        """An input for a call that has none, or is `sized`: takes its size from a batch that no operand has."""
        batched = [number for number in self.inputs if self._tells_batch(number)]
        if not batched and sized:
            raise NasirError(
                f"{call.place}: takes its size from the batch, and nothing reads the numbers of an input that has one; "
                "let forward use that input, or make the size an attribute of the module"
            )
        return (batched or self.inputs)[0]

    # -- types and names

    def _value(self, number: int) -> Value:
        return self.values[number]

    def _dtype(self, dtype: str) -> DType:
        """A dtype of torch; that in which the network computes is called float32."""
        return FLOAT if dtype == self.native else cast(DType, dtype)

    def _type(self, value: Value) -> ValueType | None:
        """The type of a value whose first axis is the batch, or that has none; None for any other."""
        batched = [axis for axis in value.shape if isinstance(axis, Batch)]
        if any(axis is None for axis in value.shape) or len(batched) > 1 or any(axis.offset for axis in batched):
            return None
        if not batched:
            whole = tuple([axis for axis in value.shape if isinstance(axis, int)])
            return ValueType(whole, None, self._dtype(value.dtype), 0)
        if not isinstance(value.shape[0], Batch):
            return None
        rest = tuple([axis for axis in value.shape[1:] if isinstance(axis, int)])
        return ValueType(rest, None, self._dtype(value.dtype), value.shape[0].factor)

    def _loose(self, value: Value) -> ValueType:
        """The type of what an opaque node gives. Where its batch is not the first axis, or a length follows the data
        (and counts as 1), only opaque nodes read it."""
        made = self._type(value)
        if made is not None:
            return made
        factors = [axis.factor for axis in value.shape if isinstance(axis, Batch)]
        rest = tuple([1 if axis is None else axis for axis in value.shape if not isinstance(axis, Batch)])
        return ValueType(rest, None, self._dtype(value.dtype), factors[0] if factors else 0)

    def _place(self, path: str) -> str:
        """Where in a model a path of the module lies: models have something else under a few names."""
        first, dot, rest = path.partition(".")
        return f"{first}_{dot}{rest}" if first in self.taken else path

    def _label_of(self, call: Call) -> str:
        return self._label(call.label) if call.module is not None else self._function_label(call)

    def _function_label(self, call: Call) -> str:
        name = call.operation.rpartition(".")[2].strip("_") or "call"
        path = call.scope[-1].path if call.scope else ""
        name = f"{name}_" if name in self.taken else name
        return self._label(f"{path}.{name}" if path else name, self.reserved)

    def _label(self, wanted: str, reserved: Collection[str] = ()) -> str:
        """A label that is free: `wanted`, else with a number; none of those `reserved`."""
        wanted = self._place(wanted)
        label, number = wanted, 1
        while label in self.labels or label in reserved or not label:
            number += 1
            label = f"{wanted or ROOT}_{number}"
        self.labels.add(label)
        return label
