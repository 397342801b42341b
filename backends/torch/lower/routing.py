"""How gates and routes become torch: in evaluation each sample runs through the ways alone that it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from nasir.backends.torch.lower.ops import Lowered, lowering
from nasir.ir import JSON, ValueType

WayCall: TypeAlias = tuple[Callable[..., Tensor] | None, tuple[Tensor, ...]]
"""What computes a way of the values that it reads, each with a batch axis; None: the one value is the way."""


class Gate(nn.Module):
    """See the op `gate`; `axis` is that of the ways."""

    def __init__(self, train: str, evaluate: str, temperature: float, noise: str, axis: int) -> None:
        super().__init__()
        self.through, self.soft = train == "straight-through", evaluate == "soft"
        self.temperature, self.gumbel, self.axis = temperature, noise == "gumbel", axis

    def forward(self, scores: Tensor) -> Tensor:
        if self.temperature != 1.0:
            scores = scores / self.temperature
        if not self.training:
            return scores.softmax(self.axis) if self.soft else self._largest(scores)
        if self.gumbel:  # -log of a number drawn from the exponential distribution
            scores = scores - torch.empty_like(scores).exponential_().log()
        shares = scores.softmax(self.axis)
        # the difference is 0 exactly, so that what goes on is 0 and 1; the other way round it would be rounded
        return self._largest(shares) + (shares - shares.detach()) if self.through else shares

    def _largest(self, scores: Tensor) -> Tensor:
        return torch.zeros_like(scores).scatter_(self.axis, scores.argmax(self.axis, keepdim=True), 1.0)


@lowering("gate")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Gate(a["train"], a["evaluate"], a["temperature"], a["noise"], x[0].channel_dim)


class Run(NamedTuple):
    """One call of a route: the `shares` of its rows, [rows, ways], and how many `rows` each way was computed for."""

    shares: Tensor
    rows: tuple[int, ...]


class Route(nn.Module):
    """See the op `route`.

    `seen`: a list that each call is added to; None: they are forgotten. `whole`: compute all ways for all samples, as
    in training.
    """

    def __init__(self, per_sample: bool) -> None:
        super().__init__()
        self.per_sample = per_sample
        self.whole = False
        self.seen: list[Run] | None = None

    def forward(self, shares: Tensor, *ways: WayCall) -> Tensor:
        rows = shares.shape[0]
        if self.training or self.whole or not self.per_sample:
            self._note(shares, [rows] * len(ways))
            return _mixed(shares, {number: _run(way) for number, way in enumerate(ways)})
        taken = shares != 0
        single = (taken.sum(1) == 1) & (shares.sum(1) == 1)
        *counts, alone = torch.cat((taken.sum(0), single.sum(0, keepdim=True))).tolist()  # one wait for the device
        if alone != rows:  # some samples take several ways, or parts of them
            self._note(shares, [rows if count else 0 for count in counts])
            return _mixed(shares, {n: _run(way) for n, way in enumerate(ways) if counts[n]})
        self._note(shares, counts)
        if rows in counts:  # all take the same one
            return _run(ways[counts.index(rows)])
        order = shares.argmax(1).argsort(stable=True)
        return _merged(ways, torch.split(order, counts), rows)

    def _note(self, shares: Tensor, rows: list[int]) -> None:
        if self.seen is not None:
            self.seen.append(Run(shares, tuple(rows)))


def _run(way: WayCall, rows: Tensor | None = None) -> Tensor:
    """The value of a way, of all samples or of those in some rows."""
    function, values = way
    if rows is not None:
        values = tuple([value[rows] for value in values])  # index_select would lose the layout in memory
    return values[0] if function is None else function(*values)


def _merged(ways: Sequence[WayCall], taking: Sequence[Tensor], samples: int) -> Tensor:
    """The value of each sample on its way; `taking`: the rows of the samples that take each."""
    chosen = [(way, rows) for way, rows in zip(ways, taking, strict=True) if len(rows)]
    # a value that is there already is the ground that the others are written on, which saves taking it apart
    ground = next((way for way, _ in chosen if way[0] is None), None)
    parts = [(rows, _run(way, rows)) for way, rows in chosen if way is not ground]
    first = parts[0][1]
    dtype = reduce(torch.promote_types, [part.dtype for _, part in parts])
    if ground is not None:
        whole = _run(ground)
        made = whole.to(torch.promote_types(whole.dtype, dtype), copy=True)
    else:
        last = first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last)
        made = torch.empty(
            (samples, *first.shape[1:]),
            dtype=dtype,
            device=first.device,
            memory_format=torch.channels_last if last else torch.contiguous_format,
        )
    for rows, part in parts:
        made = made.index_copy_(0, rows, part.to(made.dtype))
    return made


def _mixed(shares: Tensor, values: Mapping[int, Tensor]) -> Tensor:
    """The sum of values, each times its column of the shares."""
    total: Tensor | None = None
    for number, value in values.items():
        share = shares.select(-1, number).to(value.dtype)
        part = value * share.reshape(*share.shape, *(1,) * (value.dim() - share.dim()))
        total = part if total is None else total + part
    assert total is not None
    return total


@lowering("route")
def _(a: Mapping[str, JSON], x: tuple[ValueType, ...], out: ValueType) -> Lowered:
    return Route(len(x[0].axes) == 1)


@contextmanager
def runs_seen(model: nn.Module, whole: bool = False) -> Iterator[Mapping[Route, list[Run]]]:
    """The calls of the routes of a model, for the length of a `with`; `whole`: each is for all samples of the batch,
    also for those that never come to it, as where a stage is left early."""
    seen: dict[Route, list[Run]] = {}
    before = {module: (module.seen, module.whole) for module in model.modules() if isinstance(module, Route)}
    for module in before:
        module.seen = seen[module] = []
        module.whole = whole or module.whole
    try:
        yield seen
    finally:
        for module, (kept, all_rows) in before.items():
            module.seen, module.whole = kept, all_rows
