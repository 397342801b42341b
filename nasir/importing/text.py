"""A recording as text, one line a call: for people, and for tests."""

from __future__ import annotations

import numpy as np

from nasir.importing.recording import Batch, Device, Recording, Ref, Structure, Switch, Symbol, Tree


def to_text(recording: Recording) -> str:
    """Inputs and calls in order, then outputs: `3 = torch.relu(2)  # layer1.0, file.py:12`."""
    lines = [f"{_ref(entry.ref)} = input {entry.path}" for entry in recording.inputs]
    lines += [f"{entry.ref.number} = {entry.kind} {entry.key}" for entry in recording.state if entry.ref is not None]
    lines += [f"{n} = constant {array.dtype}{list(array.shape)}" for n, array in sorted(recording.constants.items())]
    for call in recording.calls:
        operands = [_told(part) for part in call.args]
        operands += [f"{name}={_told(part)}" for name, part in call.kwargs.items()]
        marks = [
            *([f"{call.only} only"] if call.only else []),
            *(["in place"] if call.in_place else []),
            *(["random"] if call.random else []),
            *([] if call.gradient else ["no gradient"]),
            *([f"updates {', '.join(call.updates)}"] if call.updates else []),
        ]
        comment = "; ".join([f"{call.label or 'root'}, {call.source}", *marks])
        lines.append(f"{_told(call.result)} = {call.operation}({', '.join(operands)})  # {comment}")
    lines += [f"{update.key} becomes {_told(update.value)}" for update in recording.updates]
    lines.append(f"return {_told(recording.outputs)}")
    return "\n".join(lines)


def _ref(ref: Ref | None) -> str:
    return "unused" if ref is None else str(ref.number)


def _told(tree: Tree) -> str:
    match tree:
        case Ref():
            return f"%{tree.number}"
        case Batch():
            return f"{tree.factor}*B{tree.offset:+d}" if tree.offset else f"{tree.factor}*B"
        case Switch():
            return f"<eval {_told(tree.eval)} | train {_told(tree.train)}>"
        case Symbol():
            return tree.name
        case Device():
            return tree.name or "device"
        case Structure():
            return f"{tree.kind}({', '.join(f'{name}={_told(part)}' for name, part in tree.parts)})"
        case tuple() | list():
            return f"[{', '.join([_told(part) for part in tree])}]"
        case dict():
            return "{" + ", ".join([f"{key}: {_told(part)}" for key, part in tree.items()]) + "}"
        case np.ndarray():
            return f"array{list(tree.shape)}"
    return repr(tree)
