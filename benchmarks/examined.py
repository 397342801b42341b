"""One network that others wrote, imported and examined: what `benchmarks.models` tells of each."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

import nasir
from nasir.backends.torch import Model
from nasir.backends.torch.importing.operands import tensors_in
from nasir.errors import Decline, NasirError
from nasir.ir import Graph
from nasir.ir.space import Atom, Index, atoms_of, positions
from nasir.passes.insert_block import InsertBlock
from nasir.passes.prune_channels import PruneChannels
from nasir.pruning.spaces import chosen
from nasir.rewriting.rewrite import WHOLE

SHARE = 0.3  # of the units that become silent and are pruned
FRESH = 5  # a batch size that was not recorded
FEW = 2  # images of the comparisons in float64
SHIFT = 0.1  # standard deviation of what is added to biases and norms, so that none is 0 or 1
SMALL = 1e-3  # what layer scales and the like begin with at most
AGAIN = 4  # copies of a module that are compared with it
STATE = 3.0  # times a parameter: its first moment, so that a wrong one is seen
Ran: TypeAlias = tuple[dict[str, list[Tensor]], dict[str, Tensor | None], dict[str, Tensor]]
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # of the largest output
FOLDED = 1e-6  # the same where constants became biases, which are stored in float32


def examined(make: Callable[[], nn.Module], shapes: Iterable[tuple[int, ...]]) -> dict[str, Any]:
    """What is found of a network for the first of the shapes of an input that it takes.

    A step that fails is told by its error, and those that need it are left out; no error is raised for that.
    """
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    net = lively(make())
    shape = _taken(net, shapes)
    row: dict[str, Any] = {
        "input": list(shape),
        "params": sum(p.numel() for p in net.parameters()),
    }
    own = copy.deepcopy(net)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    started = time.process_time()
    try:
        model = nasir.from_module(net, _images(2, shape))
    except NasirError as error:
        return {**row, "refused": _line(error)}
    row["import_cpu_s"] = round(time.process_time() - started, 2)
    row |= structure(model.graph, net)
    row |= _parity(model, net, own, shape)
    del own
    for dtype in (torch.float64, torch.float32):
        try:
            _outputs(net, shape, dtype)
            _outputs(model, shape, dtype)
            break
        except RuntimeError:  # it computes in float32 somewhere, whatever it is given
            continue
    row["dtype"] = str(dtype).removeprefix("torch.")
    row |= _pruned(model, net, optimizer, shape, dtype)
    del net
    row |= _grown(model, optimizer, shape, dtype)
    return row


def lively(net: nn.Module) -> nn.Module:
    """Biases, norms, layer scales and running statistics away from 0 and 1, where faults would not be seen."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim <= 1 or float(parameter.abs().max()) < SMALL:
                parameter += SHIFT * torch.randn(parameter.shape, generator=generator)
        for module in net.modules():
            mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if isinstance(mean, Tensor) and isinstance(variance, Tensor):
                mean += SHIFT * torch.randn(mean.shape, generator=generator)
                variance *= 0.5 + torch.rand(variance.shape, generator=generator)
    return net


def _images(count: int, shape: tuple[int, ...], seed: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def _taken(net: nn.Module, shapes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    """The first shape that the network runs on, in both modes; the last one is not tried."""
    *smaller, last = shapes
    for shape in smaller:
        try:
            with torch.no_grad():
                for training in (True, False):
                    copy.deepcopy(net).train(training)(_images(2, shape))
            return shape
        except Exception:  # whatever it raises for images that are too small
            continue
    return last


def structure(graph: Graph, net: nn.Module) -> dict[str, Any]:
    """Spaces, the share of the parameters that have a resizable axis, opaque nodes, blocks by stage."""
    spaces = graph.infer.spaces
    opaque = [node for node in graph.nodes.values() if node.facts.family == "opaque"]
    kinds: dict[str, int] = {}
    for node in opaque:
        name = str(node.attrs["runs"])
        kinds[name] = kinds.get(name, 0) + 1
    free = whole = 0
    for slots in graph.infer.slots.values():
        for slot in slots.values():
            if slot.kind == "param":
                whole += slot.size
                if any(not atom.pin for axis in slot.axes for atom in atoms_of(axis.space)):
                    free += slot.size
    return {
        "nodes": len(graph.nodes),
        "opaque": dict(sorted(kinds.items(), key=lambda item: -item[1])),
        "spaces": len(spaces),
        "free": sum(not atom.pin for atom in spaces),
        "resizable": round(free / max(sum(p.numel() for p in net.parameters()), 1), 4),
        "stages": dict(graph.depths()),
        "blocks": len(graph.blocks),
    }


def _parity(model: Model, net: nn.Module, own: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """Largest differences at another batch size: of outputs in both modes, of buffers, of gradients by the largest.

    Where there are any, `itself`: how far the module is from copies of itself. A library may add in another order where
    arrays begin at another address.
    """
    images = _images(FRESH, shape)
    copies = [copy.deepcopy(own)]
    wanted = _ran(own, own, images)
    # the parameters and buffers of the model are those of the network
    apart = _differences(wanted, _ran(model, net, images))
    row: dict[str, Any] = {f"parity_{name}": value for name, value in apart.items()}
    if any(apart.values()):
        copies += [copy.deepcopy(copies[0]) for _ in range(AGAIN - 1)]
        again = [_differences(wanted, _ran(each, each, images)).values() for each in copies]
        row["itself"] = max((value for each in again for value in each if isinstance(value, float)), default=0.0)
    own.zero_grad(set_to_none=True)
    return row


def _ran(run: nn.Module, holder: nn.Module, images: Tensor) -> Ran:
    """Outputs, of evaluation and of training; gradients and buffers of the module that holds them, by name."""
    with torch.no_grad():
        evaluated = list(tensors_in(run.eval()(images)))
    torch.manual_seed(3)
    made = list(tensors_in(run.train()(images)))
    torch.autograd.backward(sum(t.float().square().sum() for t in made if t.requires_grad))
    gradients = {name: parameter.grad for name, parameter in holder.named_parameters()}
    outputs = {"eval": evaluated, "train": [output.detach() for output in made]}
    return outputs, gradients, dict(holder.named_buffers())


def _differences(wanted: Ran, given: Ran) -> dict[str, float | str]:
    """By kind, how far apart it is; buffers that forward itself makes, or makes anew in another shape, do not count."""
    row = {kind: _apart(wanted[0][kind], given[0][kind]) for kind in wanted[0]}
    pairs = [(gradient, given[1][name]) for name, gradient in wanted[1].items()]
    pairs = [(one, other) for one, other in pairs if one is not None or other is not None]
    apart = _apart([one for one, _ in pairs], [other for _, other in pairs])
    size = max(float(one.abs().max()) for one, _ in pairs if one is not None)
    row["gradients"] = apart if isinstance(apart, str) else apart / size  # sums in another order differ a bit
    kept = [name for name, buffer in given[2].items() if name in wanted[2] and wanted[2][name].shape == buffer.shape]
    row["buffers"] = _apart([wanted[2][name] for name in kept], [given[2][name] for name in kept])
    return row


def _apart(ones: list[Any], others: list[Any]) -> float | str:
    """The largest absolute difference; in words where forms differ."""
    if len(ones) != len(others):
        return f"{len(ones)} tensors, and {len(others)}"
    largest = 0.0
    for one, other in zip(ones, others, strict=True):
        if one is None or other is None or one.shape != other.shape:
            return "other forms"
        same = (one == other) | ((one != one) & (other != other))
        if not bool(same.all()):
            largest = max(largest, float((one.double() - other.double()).abs()[~same].nan_to_num(float("inf")).max()))
    return largest


def _pruned(
    model: Model, net: nn.Module, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """The dead-channel oracle: silent units of the network as it is, pruned in the model, change nothing.

    Then whether the optimizer's state is that of the parameters that stay.
    """
    graph = model.graph
    try:
        spaces = chosen(graph, WHOLE, ("channels", "groups", "heads"), 1, 1)
    except (Decline, NasirError) as error:
        return {"pruned": f"nothing: {_line(error)}"}
    atoms = [space.atom for space in spaces if not space.atom.mixed and int(SHARE * space.atom.size)]
    row: dict[str, Any] = {
        "normalized_over": sum(bool(space.atom.mixed) for space in spaces),
        "pruned_spaces": len(atoms),
    }
    if not atoms:
        return {**row, "pruned": "nothing: a norm runs over all that is free"}
    lively = _outputs(net, shape, dtype)
    generator = torch.Generator().manual_seed(4)
    gone = {atom: torch.randperm(atom.size, generator=generator)[: int(SHARE * atom.size)].tolist() for atom in atoms}
    with torch.no_grad():
        _silence(model, graph, gone)
    wanted = _outputs(net, shape, dtype)
    for parameter in model.parameters():
        optimizer.state[parameter] = {
            "step": torch.tensor(1.0),
            "exp_avg": STATE * parameter.detach(),
            "exp_avg_sq": parameter.detach() ** 2,
        }
    model.zero_grad(set_to_none=True)
    before = graph.cost()
    names = {name for name, _ in model.named_parameters()}  # others, as a bias for what was constant, begin afresh
    reasons: list[str] = []
    try:
        rewrite = model.apply(
            PruneChannels(score="group_lasso", threshold=0.0),
            WHOLE,
            optimizers=[optimizer],
            on_decline=lambda decline: reasons.append(_line(decline)),
        )
        if rewrite is None:
            return {**row, "pruned": f"declined: {reasons[0]}"}
        row["pruned_params"] = round(1 - model.graph.cost().params / before.params, 4)
        row["pruned_preserves"] = rewrite.preserves
        given = _outputs(model, shape, dtype)
    except Exception as error:  # of ours or of torch: told in the table
        return {**row, "pruned": f"{type(error).__name__}: {_line(error)}"}
    size = max(float(t.abs().max()) for t in wanted)
    apart, moved = _apart(wanted, given), _apart(lively, wanted)
    row["pruned"] = apart if isinstance(apart, str) else apart / size
    row["silencing_moved"] = moved if isinstance(moved, str) else moved / size
    folded = any(name not in names for name, _ in model.named_parameters())
    bound = max(TOLERANCE[dtype], FOLDED if folded else 0.0)
    row["pruned_right"] = row["pruned"] if isinstance(row["pruned"], str) else row["pruned"] <= bound
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    row["optimizer_right"] = held == {id(p) for p in model.parameters()} and all(
        _follows(p, optimizer.state[p]) if name in names else not optimizer.state[p]
        for name, p in model.named_parameters()
    )
    return row


def _follows(parameter: Tensor, state: Mapping[str, Any]) -> bool:
    """Whether the moments are those that its numbers were given."""
    first, second = state.get("exp_avg"), state.get("exp_avg_sq")
    if first is None or second is None:
        return False
    return torch.equal(first, STATE * parameter.detach()) and torch.equal(second, parameter.detach() ** 2)


def _silence(model: Model, graph: Graph, gone: Mapping[Atom, Sequence[int]]) -> None:
    """Set units to 0 where they are written, scaled and shifted, in the arrays that model and network share."""
    kept: dict[Atom, Index] = {}
    for atom, units in gone.items():
        kept[atom] = np.arange(atom.size)
        kept[atom][list(units)] = -1
    for node_id, slots in graph.infer.slots.items():
        for name, slot in slots.items():
            groups = {*atoms_of(slot.groups)} & kept.keys()  # one of them writes what it reads
            for number, (axis, role) in enumerate(slot.axes):
                here = {*atoms_of(axis)} & kept.keys() if role in ("write", "along") else groups & {*atoms_of(axis)}
                if not here or role not in ("write", "along", "read"):
                    continue
                tensor = getattr(model.get_submodule(graph.nodes[node_id].label), name)
                if isinstance(tensor, nn.Module):  # of a node that puts out a weight
                    tensor = tensor.value
                tensor.index_fill_(
                    number,
                    torch.as_tensor(np.flatnonzero(positions(axis, {atom: kept[atom] for atom in here}) < 0)),
                    0.0,
                )


def _grown(
    model: Model, optimizer: torch.optim.Optimizer, shape: tuple[int, ...], dtype: torch.dtype
) -> dict[str, Any]:
    """A block inserted at the end of the deepest stage that takes one, and a step of training with it."""
    depths: Mapping[str, int] = model.graph.depths()
    reasons: list[str] = []
    row: dict[str, Any] = {"inserted": "no stage"}
    before = _outputs(model, shape, dtype) if depths else []
    for stage, init in product(sorted(depths, key=lambda path: -depths[path]), ("zero", "near_zero", "copy")):
        try:
            rewrite = model.apply(
                InsertBlock(init=init),  # type: ignore[arg-type]
                stage,
                optimizers=[optimizer],
                on_decline=lambda decline: reasons.append(_line(decline)),
            )
            if rewrite is None:
                row = {"inserted": f"declined: {reasons[0]}"}
                continue
            row = {"inserted": f"{stage}, {init}, {rewrite.preserves}"}
            if rewrite.preserves == "exact":
                size = max(float(t.abs().max()) for t in before)
                apart = _apart(before, _outputs(model, shape, dtype))
                row["inserted_right"] = apart if isinstance(apart, str) else apart <= TOLERANCE[dtype] * size
        except Exception as error:  # of ours or of torch: told in the table
            row = {"inserted": f"{type(error).__name__}: {_line(error)}"}
        break
    return {**row, "trains": _trains(model, optimizer, shape)}


def _outputs(net: nn.Module, shape: tuple[int, ...], dtype: torch.dtype) -> list[Tensor]:
    """What a network says of images in evaluation, computed in a dtype; it stays as it is."""
    with torch.no_grad():
        return list(tensors_in(copy.deepcopy(net).to(dtype).eval()(_images(FEW, shape).to(dtype))))


def _trains(model: Model, optimizer: torch.optim.Optimizer, shape: tuple[int, ...]) -> bool | str:
    """Whether a step of the optimizer after all rewrites leaves finite numbers."""
    try:
        optimizer.zero_grad()
        made = [t for t in tensors_in(model.train()(_images(FRESH, shape))) if t.requires_grad]
        torch.autograd.backward(sum(t.float().square().mean() for t in made))
        optimizer.step()
    except Exception as error:
        return f"{type(error).__name__}: {_line(error)}"
    return all(bool(torch.isfinite(p).all()) for p in model.parameters())


def _line(error: BaseException) -> str:
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    return re.sub(r"\S*/site-packages/", "", told)[:300]
