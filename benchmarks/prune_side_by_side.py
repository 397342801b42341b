"""Half of the channels of torchvision's convolutional networks, pruned by nasir and Torch-Pruning: right, how fast.

    python -m benchmarks.prune_side_by_side [NAME ...] [--repeats N] [--out FILE]

Both take the networks as they are, choose by the L1 norm of their weights, and keep what puts out the classes. Each
pruned network is compared with the original one in which the channels that went are silent: equal outputs mean that
just these went, with everything that belongs to them. Which went is read off the biases and norms that are left, whose
numbers differ from one another. Torch-Pruning is no dependency of nasir: `pip install torch-pruning==1.6.1`.
"""

from __future__ import annotations

import argparse
import copy
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch_pruning
import torchvision
from torch import Tensor, nn

import nasir
from benchmarks.examined import lively
from benchmarks.processes import Row, in_a_process
from nasir.files import write_atomically

TRANSFORMERS = ("vit_", "swin_", "maxvit")
NAMES = [name for name in torchvision.models.list_models(torchvision.models) if not name.startswith(TRANSFORMERS)]
LARGEST = 60_000_000  # parameters
SIDE = {"inception_v3": 96}
TOLERANCE = 1e-9  # of the largest output, in float64

Pruned = tuple[nn.Module, dict[str, float]]  # the network, and the CPU seconds of the steps


def ours(net: nn.Module, image: tuple[int, ...]) -> Pruned:
    """By `from_module` and `prune-channels`."""
    started = time.process_time()
    model = nasir.from_module(net, torch.zeros(2, *image))
    imported = time.process_time()
    model.apply(nasir.get_pass("prune-channels")(score="l1", fraction=0.5), "network")
    return model, {"import": imported - started, "prune": time.process_time() - imported}


def theirs(net: nn.Module, image: tuple[int, ...]) -> Pruned:
    """By a dependency graph, which its pruner makes, and one step."""
    classes = [module for module in net.modules() if getattr(module, "out_features", 0) == 1000]
    classes = classes or [module for module in net.modules() if getattr(module, "out_channels", 0) == 1000]
    started = time.process_time()
    pruner = torch_pruning.pruner.BasePruner(
        net,
        torch.zeros(1, *image),
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=0.5,
        ignored_layers=classes,
    )
    made = time.process_time()
    pruner.step()
    return net, {"import": made - started, "prune": time.process_time() - made}


TOOLS: dict[str, Callable[[nn.Module, tuple[int, ...]], Pruned]] = {"nasir": ours, "torch_pruning": theirs}


class KeptNorm(nn.Module):
    """A layer norm over the channels that are kept; the others are 0."""

    def __init__(self, norm: nn.LayerNorm, kept: Tensor) -> None:
        super().__init__()
        self.norm, self.kept = norm, kept

    def forward(self, x: Tensor) -> Tensor:
        last = len(self.norm.weight) == x.shape[-1] and not type(self.norm).__name__.endswith("2d")
        y = x if last else x.permute(0, 2, 3, 1)
        part = y[..., self.kept]
        weight, bias = self.norm.weight[self.kept], self.norm.bias[self.kept]
        out = torch.zeros_like(y)
        out[..., self.kept] = nn.functional.layer_norm(part, part.shape[-1:], weight, bias, self.norm.eps)
        return out if last else out.permute(0, 3, 1, 2)


def silenced(original: nn.Module, pruned: nn.Module) -> nn.Module:
    """A copy of the original network, in which the channels that the pruned one has no more are 0."""
    twin = copy.deepcopy(original)
    left = dict(pruned.named_modules())
    for path, module in list(twin.named_modules()):
        bias, its = getattr(module, "bias", None), getattr(left.get(path), "bias", None)
        if not isinstance(bias, Tensor) or not isinstance(its, Tensor) or len(its) == len(bias):
            continue
        kept = torch.isin(bias, its)
        if int(kept.sum()) != len(its):
            raise ValueError(f"{path}: its biases are no longer those of the network")
        for parameter in module.parameters(recurse=False):
            parameter.data[~kept] = 0.0
        if isinstance(module, nn.LayerNorm):
            parent, _, name = path.rpartition(".")
            setattr(twin.get_submodule(parent), name, KeptNorm(module, kept.nonzero().flatten()))
    return twin


def right(original: nn.Module, pruned: nn.Module, image: tuple[int, ...]) -> bool | str:
    """Whether the outputs of the pruned network are those of the original one with silent channels."""
    images = torch.randn(3, *image, generator=torch.Generator().manual_seed(5)).double()
    with torch.no_grad():
        try:
            given = pruned.double().eval()(images)
        except Exception as error:
            return f"does not run: {type(error).__name__}: {str(error).splitlines()[0][:150]}"
        wanted = silenced(original, pruned).double().eval()(images)
        moved = original.double().eval()(images)
        original.float()
    if given.shape != wanted.shape:
        return f"gives {tuple(given.shape)}"
    if bool((moved == wanted).all()):
        return "nothing went"
    apart = float((given - wanted).abs().max() / wanted.abs().max())
    return True if apart <= TOLERANCE else f"outputs are {apart:.1e} apart"


def compared(name: str, repeats: int) -> Row:
    """Both tools on one network, by turns."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    net = lively(torchvision.models.get_model(name, **options)).eval()
    count = sum(p.numel() for p in net.parameters())
    if count > LARGEST:
        return {"left_out": f"{count:,} parameters: more than {LARGEST:,}"}
    image = (3, SIDE.get(name, 64), SIDE.get(name, 64))
    row: Row = {"params": count, **{tool: {} for tool in TOOLS}}
    times: dict[str, list[dict[str, float]]] = {tool: [] for tool in TOOLS}
    for turn in range(repeats + 1):  # the first to warm up, and to look at what comes out
        for tool, prune in TOOLS.items():
            own = copy.deepcopy(net)
            gc.collect()
            try:
                pruned, seconds = prune(own, image)
            except Exception as error:
                row[tool] = {"right": f"refused: {type(error).__name__}: {str(error).splitlines()[0][:200]}"}
                continue
            if turn:
                times[tool].append(seconds)
                continue
            row[tool] = {"params": sum(p.numel() for p in pruned.parameters())}
            row[tool]["right"] = right(net, pruned, image)
    for tool, taken in times.items():
        for step in ("import", "prune") if taken else ():
            row[tool][f"{step}_ms"] = round(1e3 * statistics.median(each[step] for each in taken), 2)
    return row


def totals(rows: dict[str, Row]) -> dict[str, Any]:
    """How often each is right, and medians of how many times faster nasir is."""
    both = [row for row in rows.values() if all("prune_ms" in row.get(tool, {}) for tool in TOOLS)]

    def median(steps: tuple[str, ...], other: tuple[str, ...]) -> float:
        ratios = [sum(row["torch_pruning"][s] for s in other) / sum(row["nasir"][s] for s in steps) for row in both]
        return round(statistics.median(ratios), 2)

    whole = ("import_ms", "prune_ms")
    right = {tool: sum(row.get(tool, {}).get("right") is True for row in rows.values()) for tool in TOOLS}
    return {
        "networks": len([row for row in rows.values() if "nasir" in row]),
        "right": right,
        "prune_times_faster": median(("prune_ms",), ("prune_ms",)),
        "prune_against_whole_times_faster": median(("prune_ms",), whole),
        "whole_times_faster": median(whole, whole),
    }


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prune_side_by_side")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, metavar="FILE")
    asked = parser.parse_args()
    rows: dict[str, Row] = {}
    for name in asked.names or NAMES:
        rows[name] = in_a_process(partial(compared, name, asked.repeats), 6, 10)
        print(name, json.dumps(rows[name]), flush=True)
    versions = {name: version(name) for name in ("torch", "torchvision", "torch-pruning")}
    data = {**versions, "repeats": asked.repeats, "totals": totals(rows), "networks": rows}
    print(json.dumps(data["totals"], indent=1))
    if asked.out is not None:
        write_atomically(asked.out, f"{json.dumps(data, indent=1)}\n".encode())


if __name__ == "__main__":
    main()
