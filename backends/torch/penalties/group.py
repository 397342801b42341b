"""MorphNet's penalty on a resource, with its gradient in closed form (Gordon et al. 2018, equations 4 to 8).

Each array that writes a space gives a value r to each of its units: a *row*. Rows of tied arrays become one value of
the unit. The penalty is the sum of the network's products c * a * R: a counts units alive, a constant for the gradient,
and R sums r. A graph of autograd would hold hundreds of tiny ops; here a step takes some twenty, whatever the depth,
and a few for each array.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nasir.analysis.resources import Count, alive_macs, alive_params, resource_terms
from nasir.backends.torch.host import on_host
from nasir.backends.torch.penalties.tables import Index, Products, Sum, occurrences, regularized, segments
from nasir.backends.torch.penalties.term import Fetch
from nasir.ir import Atom, Graph
from nasir.training.penalties import PenaltyPlan
from nasir.training.shipped_penalties import ResourcePenalty


class Values(NamedTuple):
    """What the weights say now: by row, by unit, and by space (`counts` has a one behind the last)."""

    weights: list[Tensor]
    rms: Tensor
    rows: Tensor
    units: Tensor
    alive: Tensor
    counts: Tensor
    sums: Tensor


class GroupPenalty:
    """One MorphNet term for one graph: indices and coefficients, no weights."""

    def __init__(self, graph: Graph, plan: ResourcePenalty | PenaltyPlan, device: torch.device) -> None:
        self.plan, self.graph, self.device = plan, graph, device
        self.atoms, self.members = regularized(graph, plan)
        self.number = {atom: number for number, atom in enumerate(self.atoms)}
        self._index_rows()
        self._index_costs()

    def _index_rows(self) -> None:
        """Rows in the order of units, so that all rows of a unit are neighbours."""
        of_atom: dict[Atom, list[tuple[Index, int]]] = {atom: [] for atom in self.atoms}
        start = 0
        for member in self.members:
            whole = np.arange(start, start + member.size)
            for atom, positions in occurrences(member.space, whole):
                if atom in of_atom:
                    of_atom[atom].append((positions, member.entries))
            start += member.size
        groups: list[Index] = []
        entries: list[int] = []
        tied: list[int] = []
        for atom in self.atoms:
            for unit in range(atom.size):
                groups += [positions[unit] for positions, _ in of_atom[atom]]
                entries += [positions.shape[1] * each for positions, each in of_atom[atom]]
            tied += [len(of_atom[atom])] * atom.size
        back: list[list[int]] = [[] for _ in range(start)]
        for row, group in enumerate(groups):
            for position in group.tolist():
                back[position].append(row)
        device = self.device
        self.rows = Sum(groups, device)
        self.positions = Sum([np.array(rows, dtype=np.int64) for rows in back], device)
        self.entries = torch.tensor(entries, dtype=torch.float64, device=device)
        self.tied = torch.tensor(tied, dtype=torch.int64, device=device)
        self.unit_of_row = torch.repeat_interleave(torch.arange(len(tied), device=device), self.tied)
        self.sizes = torch.tensor([atom.size for atom in self.atoms], dtype=torch.int64, device=device)
        self.atom_of_unit = torch.repeat_interleave(torch.arange(len(self.atoms), device=device), self.sizes)

    def _fixed(self, atom: Atom) -> bool:
        return atom not in self.number

    def _index_costs(self) -> None:
        """Products of cost by node and of penalty by space; for latency those of arithmetic and those of traffic."""
        plan, graph, fixed = self.plan, self.graph, self._fixed
        if plan.resource == "latency":
            assert plan.roofline is not None
            parts = [
                (resource_terms(graph, "flops", fixed, plan.batch), 1 / plan.roofline[0]),
                (resource_terms(graph, "memory", fixed, plan.batch), 1 / plan.roofline[1]),
            ]
        else:
            parts = [(resource_terms(graph, plan.resource, fixed, plan.batch), 1.0)]
        self.parts = parts
        self.costs, self.slopes, self.node_of = [], [], []
        for terms, factor in parts:
            costs, slopes, nodes = [], [], []
            for number, term in enumerate(terms.values()):
                costs += [(number, self._numbers(factors), factor * c) for factors, c in term.cost.items()]
                for (target, factors), c in term.penalty.items():
                    slopes.append((self.number[target], self._numbers(factors), factor * c))
                    nodes.append(number)
            self.costs.append(Products(costs, len(parts[0][0]), self.device))
            self.slopes.append(Products(slopes, len(self.atoms), self.device))
            self.node_of.append(torch.tensor(nodes, dtype=torch.int64, device=self.device))

    def _numbers(self, factors: tuple[Atom, ...]) -> tuple[int, ...]:
        return tuple([self.number[atom] for atom in factors])

    # -- one step

    def values(self, fetch: Fetch) -> Values:
        """The values of all units, at the present weights."""
        l1 = self.plan.l1_share
        weights = [fetch(member.key).detach() for member in self.members]
        dtype = weights[0].dtype
        entries = self.entries.to(dtype)
        rms = total = torch.zeros_like(entries)
        if l1 < 1:
            rms = (self.rows(self._norms(weights, 2).square()) / entries).sqrt()
        if l1 > 0:
            total = self.rows(self._norms(weights, 1)) / entries
        rows = total if l1 == 1 else rms if l1 == 0 else torch.lerp(rms, total, l1)
        if self.plan.grouping == "max":
            units = segments(rows, "max", self.tied)
        else:
            units = segments(rows.square(), "sum", self.tied).sqrt()
        alive = units > self.plan.threshold
        both = torch.stack((alive.double(), units.double()), 1)
        counts = segments(both, "sum", self.sizes)
        constant = torch.ones(1, dtype=torch.float64, device=self.device)
        return Values(weights, rms, rows, units, alive, torch.cat((counts[:, 0], constant)), counts[:, 1])

    def _norms(self, weights: list[Tensor], power: int) -> Tensor:
        """Norm of the weights at each position of each array, one after another."""
        norms = []
        for weight, member in zip(weights, self.members, strict=True):
            others = [number for number in range(weight.dim()) if number != member.axis]
            norms.append(torch.linalg.vector_norm(weight, power, dim=others) if others else weight.abs())
        return torch.cat(norms)

    def slope(self, counts: Tensor) -> Tensor:
        """d penalty / d R of each space, at these alive counts, without the strength; [spaces] float64."""
        if len(self.slopes) == 1:
            return self.slopes[0](counts)
        compute, traffic = [costs(counts) for costs in self.costs]
        first = compute >= traffic
        chosen = [mask[nodes].double() for mask, nodes in zip((first, ~first), self.node_of, strict=True)]
        return self.slopes[0](counts, chosen[0]) + self.slopes[1](counts, chosen[1])

    def add_gradients(self, fetch: Fetch) -> Tensor:
        """Add the gradient of strength * penalty to `.grad` of every array that requires one; the value, on the device.

        Where tied arrays share the maximum they share its gradient equally, as with torch.amax; at a value of 0 there
        is none.
        """
        if not self.atoms:
            return torch.zeros((), dtype=torch.float64, device=self.device)
        measured = self.values(fetch)
        slope = self.slope(measured.counts) * self.plan.strength
        rows = slope.to(measured.rows.dtype)[self.atom_of_unit][self.unit_of_row] * self._shares(measured)
        rows = rows / self.entries.to(rows.dtype)
        sizes = [member.size for member in self.members]
        l1 = self.plan.l1_share
        if l1 < 1:
            factors = ((1 - l1) * rows / measured.rms).masked_fill_(measured.rms == 0, 0.0)
            self._accumulate(fetch, measured.weights, torch.split_with_sizes(self.positions(factors), sizes))
        if l1 > 0:
            signs = [weight.sign() for weight in measured.weights]
            self._accumulate(fetch, signs, torch.split_with_sizes(self.positions(l1 * rows), sizes))
        return (slope * measured.sums).sum()

    def _shares(self, values: Values) -> Tensor:
        """d unit / d row."""
        units = values.units[self.unit_of_row]
        if self.plan.grouping == "l2":
            return (values.rows / units).masked_fill_(units == 0, 0.0)
        first = (values.rows == units).to(units.dtype)
        return first / segments(first, "sum", self.tied)[self.unit_of_row]

    def _accumulate(self, fetch: Fetch, tensors: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
        for member, tensor, factor in zip(self.members, tensors, factors, strict=True):
            parameter = fetch(member.key)
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                shape = [1] * tensor.dim()
                shape[member.axis] = -1
                parameter.grad.addcmul_(tensor, factor.view(shape))

    # -- looking

    def by_node(self, fetch: Fetch) -> dict[str, tuple[float, float]]:
        """(cost, penalty) by label of the nodes that have a cost, without the strength; waits for the device."""
        if not self.atoms:
            counts, sums = [1.0], [0.0]
        else:
            measured = self.values(fetch)
            counts, sums = measured.counts.tolist(), measured.sums.tolist()
        result: dict[str, tuple[float, float]] = {}
        for node_id in self.parts[0][0]:
            options = []
            for terms, factor in self.parts:
                term = terms[node_id]
                slope = sum(
                    c * sums[self.number[target]] * self._product(factors, counts)
                    for (target, factors), c in term.penalty.items()
                )
                options.append((factor * self._total(term.cost, counts), factor * slope))
            # the first of the largest: as `slope` decides
            result[self.graph.nodes[node_id].label] = max(options, key=lambda option: option[0])
        return result

    def alive(self, fetch: Fetch) -> dict[str, NDArray[np.bool_]]:
        """Which units are alive, by name of each space; all units of spaces without values are."""
        masks = {space.name: np.ones(space.size, dtype=bool) for space in self.graph.infer.spaces}
        if self.atoms:
            parts = np.split(on_host(self.values(fetch).alive), np.cumsum([atom.size for atom in self.atoms])[:-1])
            masks.update((atom.name, part) for atom, part in zip(self.atoms, parts, strict=True))
        return masks

    def alive_cost(self, fetch: Fetch) -> dict[str, int]:
        """Units alive in the spaces that have values, and what the network would cost with only these."""
        counts = self.values(fetch).counts.tolist() if self.atoms else [1.0]
        return {
            "channels": round(sum(counts[:-1])),
            "macs": round(self._total(alive_macs(self.graph, self._fixed), counts)),
            "params": round(self._total(alive_params(self.graph, self._fixed), counts)),
        }

    def _product(self, factors: tuple[Atom, ...], counts: list[float]) -> float:
        return prod([counts[self.number[atom]] for atom in factors])

    def _total(self, count: Count, counts: list[float]) -> float:
        return sum(c * self._product(factors, counts) for factors, c in count.items())
