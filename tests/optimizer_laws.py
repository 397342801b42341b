"""What a rewrite owes the optimizers that it is given: it goes on right, or it is refused before anything changes.

The oracles are independent of what nasir knows of an optimizer: gathers written out by hand, other optimizers of the
same class over the same parameters, and networks that had been as the rewrite makes them from the start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, lived
from networks import small_resnet
from test_moved_state import HALVES, Split
from torch import Tensor
from torch.nn import functional

import nasir
from nasir.backends.torch import Model
from nasir.errors import UsageError
from nasir.passes import InsertBlock, RemoveBlock, SplitBranches
from nasir.rewriting.rewrite import WHOLE, Pass
from nasir.testing.backend_contract import Resize

Make = Callable[[Sequence[tuple[str, Tensor]]], Any]  # named parameters -> the optimizer or optimizers over them
KEPT = (3, 0, 2)  # of the units of s1.0.conv1
REPLICAS = (0, 1, 2, 3, 0, 0, 1)
AXES = {"s1.0.conv1.weight": 0, "s1.0.bn1.weight": 0, "s1.0.bn1.bias": 0, "s1.0.conv2.weight": 1}

REWRITES: Mapping[str, tuple[Pass, str]] = {
    "prune": (Resize(KEPT), "s1.0.conv1"),
    "widen": (Resize((0, 1, 2, 3, 0, -1, 1)), "s1.0.conv1"),
    "widen the stream": (Resize((*range(8), 0, -1)), "s2.0.conv2"),
    "insert": (InsertBlock(init="zero"), "s1"),
    "remove": (RemoveBlock(), "s1.1"),
    "split": (Split(), WHOLE),
    "branches": (SplitBranches(branches=2, how="aligned", train="joint"), "s2"),
}


class Subject:
    """A network of convolutions, norms and a linear layer in double precision, with its optimizers."""

    def __init__(self, make: Make, model: Model | None = None, **how: Any) -> None:
        self.model = lived(small_resnet((2, 1)), dtype=torch.float64) if model is None else model
        self.make = make
        made = make(list(self.model.named_parameters()))
        self.optimizers: list[Any] = list(made) if isinstance(made, list | tuple) else [made]
        self.how = how

    def train(self, steps: int, first: int = 0) -> list[Tensor]:
        """The logits of each step."""
        logits: list[Tensor] = []
        for seed in range(first, first + steps):
            torch.manual_seed(seed)

            def closure(seed: int = seed) -> Tensor:
                for optimizer in self.optimizers:
                    optimizer.zero_grad()
                out = self.model.train()(images(6, 8, seed, self.how.get("dtype", torch.float64)))
                logits.append(out.detach())
                loss = functional.cross_entropy(out, torch.arange(6) % 3)
                loss.backward(create_graph=bool(self.how.get("curved")))
                if self.how.get("sparse"):
                    for parameter in self.model.parameters():
                        parameter.grad = None if parameter.grad is None else parameter.grad.to_sparse()
                return loss.detach()

            if self.how.get("closure"):
                for optimizer in self.optimizers:
                    optimizer.step(closure)
            else:
                closure()
                for optimizer in self.optimizers:
                    optimizer.step()
        return logits

    def apply(self, change: Pass, site: str) -> Any:
        """The rewrite; it must not decline."""
        place: Any = site
        if isinstance(change, Resize):
            place = next(atom for atom in self.model.graph.infer.spaces if atom.name == site)
        rewrite = change.attempt(self.model.graph, place)
        return self.model.apply(rewrite, optimizers=self.optimizers)

    def parts(self) -> list[Any]:
        """The optimizers, and those that they wrap."""
        found = list(self.optimizers)
        for part in found:
            inner = [value for value in vars(part).values() if isinstance(value, torch.optim.Optimizer)]
            found += [one for one in inner if all(one is not other for other in found)]
        return found

    def state(self, parameter: Tensor) -> dict[str, Any]:
        """All that the optimizers keep for a parameter."""
        kept: dict[str, Any] = {}
        for part in self.parts():
            kept |= part.state.get(parameter, {})
        return kept

    def states(self) -> dict[str, dict[str, Any]]:
        """Copies, by the name of the parameter."""
        return {name: deepcopy(self.state(parameter)) for name, parameter in self.model.named_parameters()}

    def digest(self) -> str:
        """Of the model, the graph, and everything that the optimizers hold."""
        named = {id(p): name for name, p in self.model.named_parameters()}
        hashed = hashlib.sha256()

        def add(value: Any) -> None:
            if isinstance(value, Tensor):
                hashed.update(f"{named.get(id(value), '')} {value.dtype} {tuple(value.shape)}".encode())
                dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
                hashed.update(dense.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
            elif isinstance(value, Mapping):
                for key, item in value.items():
                    add(key)
                    add(item)
            elif isinstance(value, list | tuple):
                for item in value:
                    add(item)
            else:
                hashed.update(f"{value!r:.200}".encode())

        add(self.model.state_dict())
        hashed.update(str(id(self.model.graph)).encode())
        for name, parameter in self.model.named_parameters():
            add((name, parameter.grad))
        for part in self.parts():
            add([part.param_groups, {key: value for key, value in part.state.items() if isinstance(key, Tensor)}])
        return hashed.hexdigest()


def copied(subject: Subject) -> Subject:
    """Another subject that is as this one is: the model by copy, the optimizers by what they keep."""
    twin = Subject(subject.make, deepcopy(subject.model), **subject.how)
    names = {id(p): name for name, p in subject.model.named_parameters()}
    own = dict(twin.model.named_parameters())
    for mine, theirs in zip(subject.parts(), twin.parts(), strict=True):
        while len(theirs.param_groups) < len(mine.param_groups):
            theirs.param_groups.append({})
        for group, other in zip(mine.param_groups, theirs.param_groups, strict=True):
            other |= {key: deepcopy(value) for key, value in group.items() if key not in ("params", "param_names")}
            other["params"] = [own[names[id(p)]] for p in group["params"]]
        theirs.state.clear()
        for key, values in mine.state.items():
            theirs.state[own[names[id(key)]] if id(key) in names else key] = deepcopy(values)
    return twin


def refused(subject: Subject, change: Pass, site: str) -> str | None:
    """Why the rewrite is refused, with all as it was before; None where it was carried out."""
    before = subject.digest()
    try:
        subject.apply(change, site)
    except UsageError as error:
        assert subject.digest() == before, "refused, but not before something changed"
        told = str(error)
        assert any(type(part).__name__ in told for part in subject.parts()), f"{told} names no optimizer"
        assert "anew" in told or "register" in told or "optimizers=[" in told, f"{told} names no remedy"
        return told
    return None


def check_groups(subject: Subject) -> None:
    """Every parameter of the network is in one group, and nothing else is there or has state."""
    parameters = {id(p) for p in subject.model.parameters()}
    held = [id(p) for optimizer in subject.optimizers for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(parameters)
    for part in subject.parts():
        assert {id(key) for key in part.state if isinstance(key, Tensor)} <= parameters


def same(actual: Any, wanted: Any, what: str, bound: float = 0.0) -> None:
    """Two values of a state are equal; tensors up to `bound`, relative to the largest entry."""
    if isinstance(wanted, Tensor):
        assert isinstance(actual, Tensor) and actual.shape == wanted.shape, what
        if bound and wanted.is_floating_point():
            scale = max(float(wanted.abs().max()), 1e-200) if wanted.numel() else 1.0
            error = float((actual - wanted).abs().max()) / scale if wanted.numel() else 0.0
            assert error <= bound, f"{what}: {error:.3g} of its largest entry away"
        else:
            assert torch.equal(actual, wanted), what
    elif isinstance(wanted, Mapping):
        assert actual.keys() == wanted.keys(), what
        for key, value in wanted.items():
            same(actual[key], value, f"{what} {key}", bound)
    elif isinstance(wanted, list | tuple):
        assert len(actual) == len(wanted), what
        for a, b in zip(actual, wanted, strict=True):
            same(a, b, what, bound)
    else:
        assert actual == pytest.approx(wanted, rel=max(bound, 1e-12)) if isinstance(wanted, float) else actual == wanted


def check_pruned(subject: Subject, before: Mapping[str, Mapping[str, Any]], shapes: Mapping[str, torch.Size]) -> None:
    """What stays has the state that it had, picked out by hand; all else is as it was."""
    index = torch.tensor(KEPT)
    for name, old in before.items():
        new = subject.state(subject.model.get_parameter(name))
        assert new.keys() == old.keys(), name
        for key, value in old.items():
            along = AXES.get(name)
            reaches = isinstance(value, Tensor) and along is not None and value.ndim == len(shapes[name])
            if reaches and value.shape[along] == shapes[name][along]:
                value = value.index_select(along, index)
            elif reaches and along is not None:  # averaged over the axis: over what is left of it
                continue
            same(new[key], value, f"{name} {key}", 1e-12)


def check_untouched(subject: Subject, before: Mapping[str, Mapping[str, Any]], gone: Iterable[str] = ()) -> None:
    """All that is still there has the state that it had."""
    for name, parameter in subject.model.named_parameters():
        if name in before and name not in gone:
            new = subject.state(parameter)
            assert new.keys() == before[name].keys(), name
            for key, value in before[name].items():
                same(new[key], value, f"{name} {key}")


def check_new_ones_begin(subject: Subject, names: Sequence[str]) -> None:
    """The next step moves new parameters as optimizers move them that are made for them alone."""
    named = dict(subject.model.named_parameters())
    twins = {name: torch.nn.Parameter(named[name].detach().clone()) for name in names}
    random = torch.Generator().manual_seed(5)
    for parameter in subject.model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=random, dtype=parameter.dtype) * 1e-2
    for name, twin in twins.items():
        twin.grad = named[name].grad.clone()
    others = subject.make(list(twins.items()))
    fresh = list(others) if isinstance(others, list | tuple) else [others]
    for optimizer in (*subject.optimizers, *fresh):
        if subject.how.get("sparse"):
            for p in (p for group in optimizer.param_groups for p in group["params"] if p.grad is not None):
                p.grad = p.grad.to_sparse() if p.grad.layout == torch.strided else p.grad
        optimizer.step(*([lambda: torch.zeros(())] if subject.how.get("closure") else []))
    for name, twin in twins.items():
        same(named[name].detach(), twin.detach(), f"{name} after its first step", 1e-9)


def check_goes_on(subject: Subject, path: Path) -> None:
    """Stored and restored, it goes on bit for bit, as without an interruption."""
    nasir.save(path, subject.model, optimizers=subject.optimizers)
    stored = nasir.load(path)
    twin = Subject(subject.make, stored.model, **subject.how)
    stored.restore(optimizers=twin.optimizers)
    for one in (subject, twin):
        one.train(2, first=50)
    for name, tensor in subject.model.state_dict().items():
        assert torch.equal(tensor, twin.model.state_dict()[name]), f"{name} differs after a restart"
    for name, values in subject.states().items():
        other = twin.state(twin.model.get_parameter(name))
        assert values.keys() == other.keys(), name
        for key, value in values.items():
            same(other[key], value, f"{name} {key} after a restart")


def check_rewrite(what: str, make: Make, path: Path, **how: Any) -> str | None:
    """The whole law for one rewrite; why it is refused, or None."""
    subject = Subject(make, **how)
    subject.train(3)
    names = {name for name, _ in subject.model.named_parameters()}
    before = subject.states()
    shapes = {name: p.shape for name, p in subject.model.named_parameters()}
    told = refused(subject, *REWRITES[what])
    if told is None:
        check_groups(subject)
        if what == "prune":
            check_pruned(subject, before, shapes)
        elif what == "split":
            check_untouched(subject, before)
            for label, rows in HALVES.items():
                for key, value in subject.state(subject.model.get_parameter(f"{label}.weight")).items():
                    old = before["conv1.weight"][key]
                    if isinstance(old, Tensor) and old.ndim and old.shape[0] == 4:
                        same(value, old[rows], f"{label} {key}", 1e-12)
        elif what in ("insert", "remove"):
            check_untouched(subject, before)
        if what == "insert":
            new = [name for name, _ in subject.model.named_parameters() if name not in names]
            check_new_ones_begin(copied(subject), new)
        check_goes_on(subject, path)
    else:
        subject.train(1, first=9)  # and goes on as it was
    return told


def check_replicas(make: Make, apart: Iterable[str] = (), **how: Any) -> str | None:
    """At rate 0 the state fills and the weights stay: that of a network whose units are replicated becomes that of one
    which had the replicas from the start, for all keys but `apart`. Why it is refused, or None."""
    for site, index in (("s1.0.conv1", REPLICAS), ("s2.0.conv2", (*range(8), 0, 0, 1))):
        late = Subject(make, **how)
        late.train(3)
        if (told := refused(late, Resize(index), site)) is not None:
            return told
        early = Subject(make, **how)
        early.apply(Resize(index), site)
        early = Subject(make, early.model, **how)
        early.train(3)
        for name, values in early.states().items():
            new = late.state(late.model.get_parameter(name))
            assert new.keys() == values.keys(), name
            for key, value in values.items():
                if key not in apart:
                    same(new[key], value, f"{name} {key}", 1e-6)
    return None
