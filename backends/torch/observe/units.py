"""Sums over weights for every unit of every space, in one pass over memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasir.backends.torch.host import on_host, widened
from nasir.backends.torch.lower.module import LoweredModule
from nasir.ir import Atom, Graph
from nasir.ir.space import Axis, Cat, resolve, size_of
from nasir.transfer import Key

Role = Literal["write", "along", "read"]
Rows = list[tuple[Axis, NDArray[Any], int]]  # (axis, a number for each of its positions, entries summed in each)
CHUNK = 1 << 18  # entries worked on at a time: what is read three times stays in the cache of a core


def weight_sums(
    model: LoweredModule, power: int, roles: Sequence[Role], gradients: Mapping[int, Tensor | None] | None = None
) -> Rows:
    """sum |w| ** power (1 or 2) for every position of every resizable axis of the parameters but biases.

    With `gradients`, by id of the parameter: the signed sum of w * gradient. Sums over 16-bit weights are float32.
    """
    asked: list[tuple[Axis, int]] = []
    sums: list[Tensor] = []
    room: Tensor | None = None
    for node_id, slots in model.graph.infer.slots.items():
        for name, slot in slots.items():
            if slot.kind != "param" or "bias" in slot.tags:
                continue
            axes = [n for n, (space, role) in enumerate(slot.axes) if role in roles and not isinstance(space, int)]
            if not axes:
                continue
            parameter = model.tensor(Key(node_id, name))
            weight = widened(parameter.detach())
            if gradients is not None:
                gradient = gradients[id(parameter)]
                product = torch.zeros_like(weight) if gradient is None else weight * widened(gradient)
                sums += [_reduced(product, axis) for axis in axes]
            else:
                if not weight.is_cuda and (room is None or room.dtype != weight.dtype):
                    room = weight.new_empty(CHUNK)
                sums += axis_sums(weight, power, axes, room)
            asked += [(slot.axes[axis].space, slot.size // size_of(slot.axes[axis].space)) for axis in axes]
    return [(space, values, count) for (space, count), values in zip(asked, _on_host(sums), strict=True)]


def axis_sums(weight: Tensor, power: int, axes: Sequence[int], room: Tensor | None = None) -> list[Tensor]:
    """sum |w| ** power over everything but each of `axes`; `room`: memory for `CHUNK` entries to work in."""
    if weight.dim() == 1:
        return [weight.abs() if power == 1 else weight.square()]
    if list(axes) == [0, 1] and weight.is_contiguous() and room is not None:
        return _two_axis_sums(weight, power, room)
    powers = weight.abs() if power == 1 else weight.square()
    return [_reduced(powers, axis) for axis in axes]


def _two_axis_sums(weight: Tensor, power: int, room: Tensor) -> list[Tensor]:
    """For [out, in, ...] in row-major memory: each chunk of rows is read once from memory, then from the cache."""
    out, inner = weight.shape[:2]
    flat = weight.view(out, -1)
    width = flat.shape[1]
    step = max(1, CHUNK // width)
    rows, columns = [], []
    for start in range(0, out, step):
        chunk = flat[start : start + step]
        powers = room[: chunk.numel()].view(chunk.shape) if chunk.numel() <= len(room) else torch.empty_like(chunk)
        torch.abs(chunk, out=powers) if power == 1 else torch.mul(chunk, chunk, out=powers)
        rows.append(powers.sum(1))
        columns.append(powers.sum(0))
    total = columns[0] if len(columns) == 1 else torch.stack(columns).sum(0)
    return [rows[0] if len(rows) == 1 else torch.cat(rows), total.view(inner, -1).sum(1) if inner < width else total]


def _reduced(values: Tensor, axis: int) -> Tensor:
    dims = [n for n in range(values.dim()) if n != axis]
    return values.sum(dim=dims) if dims else values


def _on_host(tensors: list[Tensor]) -> list[NDArray[Any]]:
    """The tensors as arrays: one transfer, one wait for the device."""
    if not tensors:
        return []
    whole = on_host(torch.cat(tensors))
    rows, end = [], 0
    for tensor in tensors:
        start, end = end, end + tensor.shape[0]
        rows.append(whole[start:end])
    return rows


def by_space(
    graph: Graph, rows: Iterable[tuple[Axis, NDArray[Any], int]], mean: bool = False
) -> dict[str, NDArray[np.float64]]:
    """[members, size] by name of each space; with `mean`, each number divided by the entries that went into it."""
    pieces: dict[Atom, list[NDArray[Any]]] = {space: [] for space in graph.infer.spaces}
    for axis, values, count in rows:
        for atom, part, entries in _spread(axis, values, count):
            pieces[atom].append(part / entries if mean else part)
    return {
        atom.name: np.array(parts, dtype=np.float64) if parts else np.empty((0, atom.size))
        for atom, parts in pieces.items()
    }


def _spread(axis: Axis, values: NDArray[Any], count: int) -> list[tuple[Atom, NDArray[Any], int]]:
    """(atom, sum for each of its units, entries in each sum) of the atoms that an axis runs over."""
    whole = resolve(axis)
    if isinstance(whole, int):
        return []
    if isinstance(whole, Atom):
        return [(whole, values, count)]
    spread: list[tuple[Atom, NDArray[Any], int]] = []
    if isinstance(whole, Cat):
        end = 0
        for piece in whole.parts:
            end += piece.size
            spread += _spread(piece, values[end - piece.size : end], count)
        return spread
    grid = values.reshape([size_of(factor) for factor in whole.parts])
    for number, factor in enumerate(whole.parts):
        rest = tuple([n for n in range(grid.ndim) if n != number])
        spread += _spread(factor, grid.sum(axis=rest), count * (values.size // grid.shape[number]))
    return spread
