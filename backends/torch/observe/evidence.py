"""Evidence from a live network: numbers for every unit of every space, from weights, gradients and activations."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from nasir.backends.torch.host import on_host, widened
from nasir.backends.torch.lower.interface import first_floating
from nasir.backends.torch.lower.module import LoweredModule
from nasir.backends.torch.observe.logits import as_input
from nasir.backends.torch.observe.residuals import contributions, inputs_of
from nasir.backends.torch.observe.routes import taking
from nasir.backends.torch.observe.units import Role, Rows, by_space, weight_sums
from nasir.backends.torch.train.loop import evaluating
from nasir.errors import NasirError
from nasir.ir import Atom, Graph, Port
from nasir.ir.space import atoms_of, resolve
from nasir.ir.types import gain_of
from nasir.rewriting.evidence import Evidence, Need
from nasir.transfer import Key

Measured = Mapping[str, NDArray[Any]]
Labelled = Callable[[], tuple[Tensor, Tensor]]
ALL: tuple[Role, ...] = ("write", "along", "read")


def observe(
    model: LoweredModule,
    needs: Iterable[Need],
    images: Tensor | None = None,
    labels: Tensor | None = None,
    *,
    labelled: Labelled | None = None,
    averages: Mapping[str, Tensor] | None = None,
    **about: Any,
) -> Evidence:
    """Measure what `needs` ask for; the network is left as it was, gradients included.

    Activations are measured on `images` [N, ...], gradients on them and their `labels` [N] or on what `labelled` gives.
    `averages`: moving averages of the weights by state_dict name, which are told wherever the weights are.
    `about`: further fields of the Evidence. Raises NasirError where a measurement needs one that is missing.
    """
    if labelled is None and images is not None and labels is not None:
        labelled = partial(_pair, images, labels)
    kinds: dict[str, Callable[[], Measured]] = {
        "activation_mean": lambda: _activation_mean(model, images),
        "weight_norm": lambda: _weight_norm(model),
        "weight_l1": lambda: _sums(model, 1),
        "weight_l2": lambda: _sums(model, 2),
        "taylor": lambda: _taylor(model, labelled),
        "norm_scale": lambda: _norm_scale(model),
        "group_lasso": lambda: _means(model, 2),
        "weight_mean": lambda: _means(model, 1),
        "weight_abs": lambda: _weight_abs(model),
        "residual_ratio": lambda: _residual_ratio(model, images),
        "route_shares": lambda: _route_shares(model, images),
        "weights": lambda: HostWeights(model.tensors()),
    }
    wanted = dict.fromkeys(need.kind for need in needs)
    if wanted.pop("latency", 0) is None:
        about["latency"] = _clock(model, images)
    if averages is not None and "weights" in wanted:
        about["averaged"] = Evidence({"weights": HostWeights(averages)})
    return Evidence({kind: kinds[kind]() for kind in wanted}, **about)


def _pair(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return images, labels


class HostWeights(Mapping[str, NDArray[Any]]):
    """Weights by state_dict name, as read-only arrays: views where they lie on the CPU already.

    16-bit ones come as copies in float32.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> NDArray[Any]:
        array = on_host(self._tensors[name]).view()
        array.flags.writeable = False
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _sums(model: LoweredModule, power: int) -> Measured:
    return by_space(model.graph, weight_sums(model, power, ALL))


def _means(model: LoweredModule, power: int) -> Measured:
    """(Mean of |w| ** power) ** (1 / power) of every unit, a row for each array that writes it."""
    rows = by_space(model.graph, weight_sums(model, power, ("write",)), mean=True)
    return {name: values ** (1 / power) for name, values in rows.items()}


def _weight_norm(model: LoweredModule) -> Measured:
    rows = by_space(model.graph, weight_sums(model, 2, ("write",)), mean=True)
    return {name: np.sqrt(values.mean(axis=0)) for name, values in rows.items() if len(values)}


def _norm_scale(model: LoweredModule) -> Measured:
    rows: Rows = []
    for node_id in model.graph.order:
        slots = model.graph.infer.slots[node_id]
        gain = gain_of(slots)
        if gain is not None:
            rows.append((slots[gain].axes[-1].space, np.abs(on_host(model.tensor(Key(node_id, gain)))), 1))
    return by_space(model.graph, rows)


def _weight_abs(model: LoweredModule) -> Measured:
    graph = model.graph
    keys = [Key(n, name) for n in graph.order for name, slot in graph.infer.slots[n].items() if slot.is_kernel]
    weights = [model.tensor(key).detach() for key in keys]
    means = torch.stack([weight.abs().mean(dtype=torch.float64) for weight in weights]).tolist() if weights else []
    by_label: dict[str, NDArray[np.float64]] = {}
    for key, mean, weight in zip(keys, means, weights, strict=True):
        label, entries = graph.nodes[key.node].label, weight.numel()
        if label in by_label:  # a node with several kernels
            before, count = by_label[label].tolist()
            mean, entries = (before * count + mean * entries) / (count + entries), int(count) + entries
        by_label[label] = np.array([mean, entries], dtype=np.float64)
    return by_label


def _route_shares(model: LoweredModule, images: Tensor | None) -> Measured:
    if images is None:
        raise NasirError("'route_shares' needs `images` to run the network on")
    with evaluating(model), torch.no_grad(), taking(model, len(images)) as taken:
        model(as_input(model, images))
    return {label: np.array(shares) for label, shares in taken.shares(len(images)).items()}


def _residual_ratio(model: LoweredModule, images: Tensor | None) -> Measured:
    if images is None:
        raise NasirError("'residual_ratio' needs `images` to run the network on")
    return {item.label: np.array(item.ratio.median) for item in contributions(model, inputs_of(model, images))}


def _taylor(model: LoweredModule, labelled: Labelled | None) -> Measured:
    """First-order change of the loss when a unit's weights go to zero (Molchanov et al. 2019, arXiv:1906.10771)."""
    if labelled is None:
        raise NasirError("'taylor' needs training images with labels: give `images` and `labels`")
    images, labels = labelled()
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(True)  # frozen weights are scored like all others
        with evaluating(model), torch.enable_grad():
            loss = functional.cross_entropy(widened(first_floating(model(as_input(model, images)))), labels)
            raw = torch.autograd.grad(loss, [parameter for parameter, _ in flags], allow_unused=True)
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
    gradients = {id(p): gradient for (p, _), gradient in zip(flags, raw, strict=True)}
    rows = by_space(model.graph, weight_sums(model, 1, ALL, gradients))
    return {name: np.abs(values) for name, values in rows.items()}


def _clock(model: LoweredModule, images: Tensor | None) -> Callable[[Graph], float]:
    """Times candidate networks on the model's device, in its memory layout, at the size of the probe batch."""
    from nasir.backends.torch.observe.latency import latency_probe  # only where a pass asks for it

    if images is None:
        raise NasirError("'latency' needs `images`: their number is the batch size that is timed")
    return latency_probe(images.device, len(images), channels_last=model.channels_last)


def _writers(graph: Graph) -> dict[Atom, list[int]]:
    """Nodes with weights whose output runs over an atom, by atom."""
    writers: dict[Atom, list[int]] = {}
    for node_id in graph.order:
        slots = graph.infer.slots[node_id]
        if any(axis.role == "write" for slot in slots.values() for axis in slot.axes):
            for atom in dict.fromkeys(atoms_of(graph.infer.types[Port(node_id)].channels)):
                writers.setdefault(atom, []).append(node_id)
    return writers


def _measured(graph: Graph, writer: int) -> int:
    """The norm right behind a writer, where there is one, else the writer."""
    users = graph.users(writer)
    if len(users) == 1 and graph.nodes[users[0]].facts.family == "norm":
        return users[0]
    return writer


def _activation_mean(model: LoweredModule, images: Tensor | None) -> Measured:
    if images is None:
        raise NasirError("'activation_mean' needs `images` to run the network on")
    graph = model.graph
    means: dict[int, Tensor] = {}
    handles = []
    nodes = dict.fromkeys(_measured(graph, n) for writers in _writers(graph).values() for n in writers)
    try:
        for node_id in nodes:
            leaf = model.leaf(node_id)
            if leaf is not None:
                handles.append(leaf.register_forward_hook(_collector(means, node_id)))
        with evaluating(model), torch.no_grad():
            model(as_input(model, images))
    finally:
        for handle in handles:
            handle.remove()
    rows = [(resolve(graph.infer.types[Port(n)].channels), on_host(values), 1) for n, values in means.items()]
    return by_space(graph, rows, mean=True)


def _collector(means: dict[int, Tensor], node_id: int) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        channels = 2 if output.dim() == 3 else 1  # tokens are [N, T, D]
        axes = [axis for axis in range(output.dim()) if axis != channels]
        means[node_id] = output.detach().abs().to(torch.float64).mean(dim=axes)

    return hook
