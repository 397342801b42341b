"""Estimated latency: each node takes the longer of its arithmetic and its memory traffic (Williams et al. 2009).

MorphNet's latency term is the same estimate (Gordon et al. 2018; its device table is `PROFILES`). It knows nothing of
caches, kernel efficiency or overlap: to compare networks it serves, the truth is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasir.errors import UsageError
from nasir.files import read_bounded
from nasir.ir.cost import BYTES, Cost
from nasir.options import shown

if TYPE_CHECKING:
    from nasir.ir.graph import Graph


MAX_BYTES = 1 << 16
"""Of the file of a profile."""


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What a device does at best: FLOP/s (a multiply-accumulate is two), bytes/s of memory traffic, and seconds that
    the call of one op costs whatever its size."""

    name: str
    flops_per_second: float
    bytes_per_second: float
    overhead_seconds: float = 0.0

    def __post_init__(self) -> None:
        for field in ("flops_per_second", "bytes_per_second"):
            value = getattr(self, field)
            if not (isfinite(value) and value > 0):
                raise ValueError(f"{field} must be a number above 0, not {value!r}")
        if not (isfinite(self.overhead_seconds) and self.overhead_seconds >= 0):
            raise ValueError(f"overhead_seconds must be 0 or more, not {self.overhead_seconds!r}")


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of one node for one batch: it takes `overhead` + max(`compute`, `memory`)."""

    compute: float
    memory: float
    overhead: float

    @property
    def seconds(self) -> float:
        return self.overhead + max(self.compute, self.memory)


PROFILES: Mapping[str, DeviceProfile] = {
    name: DeviceProfile(name, gflops * 1e9, gigabytes * 1e9)
    for name, gflops, gigabytes in (
        ("K80", 8_740, 480),
        ("P4", 5_500, 192),
        ("T4", 8_100, 300),
        ("P100", 9_300, 732),
        ("V100", 125_000, 900),
        ("TPUv2", 22_500, 300),
    )
}
"""Peak figures of MorphNet's released code, by name."""


def estimates(graph: Graph, profile: DeviceProfile, batch: int = 1) -> dict[int, Estimate]:
    """Estimate of each node by id, in topological order, for float32 and a batch of `batch` samples (at least 1).

    A node's traffic is its inputs, its outputs and its weights, each moved once. What does not run in evaluation takes
    no time.
    """
    if batch < 1:
        raise UsageError(f"batch: {batch}; a batch has at least 1 sample")
    costs = graph.costs
    none = Estimate(0.0, 0.0, 0.0)
    return {
        node_id: none if node_id in graph.idle else _estimate(graph, costs, node_id, profile, batch)
        for node_id in graph.order
    }


def estimate(graph: Graph, profile: DeviceProfile, batch: int = 1, path: str | None = None) -> float:
    """Seconds that one batch takes the network, the region or the node labelled `path`, one op after another."""
    estimated = estimates(graph, profile, batch)
    if path is None:
        return sum(node.seconds for node in estimated.values())
    ids = graph.members(path) if path in graph.regions else (graph.find(path),)
    return sum(estimated[node_id].seconds for node_id in ids)


def find_profile(name: str) -> DeviceProfile:
    """The profile of `PROFILES` called `name` (in any case), or of a file; raises UsageError."""
    for known, profile in PROFILES.items():
        if known.lower() == name.lower():
            return profile
    if Path(name).suffix in (".yaml", ".yml", ".json"):
        return load_profile(Path(name))
    raise UsageError(f"no device profile is called {name!r}; use {', '.join(PROFILES)}, or a .yaml or .json file")


def load_profile(path: Path) -> DeviceProfile:
    """A profile from a YAML or JSON file: its keys are the fields of `DeviceProfile`; raises UsageError."""
    import yaml  # only here: the graph itself needs no YAML

    try:
        data = yaml.safe_load(read_bounded(path, MAX_BYTES).decode("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a device profile") from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise UsageError(f"{path}: neither YAML nor JSON: {' '.join(str(error).split())}") from None
    known = [field.name for field in fields(DeviceProfile)]
    if not isinstance(data, dict) or not data.keys() <= set(known) or not {*known[1:3]} <= data.keys():
        raise UsageError(
            f"{path}: a device profile has the keys {', '.join(known[1:3])} and, if wanted, name and "
            f"{known[3]}; found {shown(data)}"
        )
    try:
        name = data.get("name", path.stem)
        return DeviceProfile(
            name if isinstance(name, str) else shown(name), *[_number(data.get(key, 0.0)) for key in known[1:]]
        )
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{path}: {error}; give numbers such as 8.7e+12") from None


def _number(value: Any) -> float:
    """A float; YAML reads 8.7e12 (no sign in the exponent) as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"expected a number, found {shown(value)}")
    return float(value)


def _estimate(graph: Graph, costs: Mapping[int, Cost], node_id: int, profile: DeviceProfile, batch: int) -> Estimate:
    node, cost = graph.nodes[node_id], costs[node_id]
    if node.facts.view:  # no traffic, no call worth counting
        return Estimate(0.0, 0.0, 0.0)
    types = graph.infer.types
    read = sum(prod(types[port].shape) for port in node.inputs)
    moved = batch * (cost.activation_bytes + BYTES * read) + cost.weight_bytes
    compute = batch * cost.flops / profile.flops_per_second
    return Estimate(compute, moved / profile.bytes_per_second, profile.overhead_seconds)
