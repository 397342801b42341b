"""Which CUDA devices the workers of a search see: what its trials ask for, what there is, and who gets what.

A worker sees one device, by `CUDA_VISIBLE_DEVICES` in its environment, and `device: auto` or `cuda` takes it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from nasir.counted import counted
from nasir.errors import RunError, UsageError
from nasir.registry import backends
from nasir.spec import Spec
from nasir.spec.check import rule_passes
from nasir.spec.search import SearchSpec
from nasir.spec.tree import locate
from nasir.training.backend import DEFAULT_BACKEND, make_backend

__all__ = ["VISIBLE", "Demand", "Division", "GpuShare", "demand_of", "divide", "gpu_share", "names", "view", "visible"]

VISIBLE = "CUDA_VISIBLE_DEVICES"
COUNT = "import sys; from nasir.training.backend import make_backend; print(make_backend(sys.argv[1]).cuda_devices())"
AIM = "aim at macs or params instead"


# -- what the trials ask for


@dataclass(frozen=True, slots=True)
class Wish:
    """A device that trials may ask for: `name` is auto, cpu, cuda or cuda:N; `where` says so, for messages."""

    name: str
    where: str

    @property
    def number(self) -> int | None:
        """N of cuda:N."""
        _, colon, number = self.name.partition(":")
        return int(number) if colon else None

    def __str__(self) -> str:
        return f"{self.where}: {self.name}"


@dataclass(frozen=True, slots=True)
class Clock:
    """Something that is timed, and on which of the devices (as in a spec) it may be."""

    what: str
    devices: frozenset[str]

    def on_cuda(self, there: bool) -> bool:
        """Whether it may be timed on a CUDA device; `there`: workers see one."""
        return any(name.startswith("cuda") or (name == "auto" and there) for name in self.devices)

    def on_cpu(self, there: bool) -> bool:
        """Whether it may be timed on the CPU; `there`: workers see a CUDA device."""
        return any(name == "cpu" or (name == "auto" and not there) for name in self.devices)


@dataclass(frozen=True, slots=True)
class Demand:
    """All that the trials of a search may ask of devices, and all that they may time."""

    wishes: tuple[Wish, ...]
    clocks: tuple[Clock, ...] = ()

    @property
    def may(self) -> bool:
        """Whether a trial would take a CUDA device if there is one."""
        return any(wish.name != "cpu" for wish in self.wishes)

    @property
    def must(self) -> Wish | None:
        """A wish that only a CUDA device fulfils."""
        return next((wish for wish in self.wishes if wish.name.startswith("cuda")), None)

    @property
    def numbered(self) -> Wish | None:
        """The wish of the highest number that asks for one device of several, cuda:N."""
        numbered = [wish for wish in self.wishes if wish.number is not None]
        return max(numbered, key=lambda wish: wish.number or 0, default=None)

    def beside_others(self, there: bool) -> list[str]:
        """Remarks about what is timed on a CPU that several workers load; `there`: workers see a CUDA device."""
        return [
            f"{clock.what} is timed on the CPU while other workers load it, so it varies; --workers 1 times it alone"
            for clock in self.clocks
            if clock.on_cpu(there)
        ]


def demand_of(spec: SearchSpec, written: bool = True) -> Demand:
    """The demand of a search over all alternatives. Passes that only a plugin knows are not looked into.

    `written`: the spec was read from its file, so that places in it can be named.
    """

    def wish(name: str, *path: str) -> Wish:
        key = ".".join(path)
        return Wish(name, f"{locate(spec.tree, path)}: {key}" if written else f"{key} of the spec")

    default = str(Spec.model_fields["device"].default)
    wishes: dict[str, Wish] = {}
    timing: dict[str, None] = {}  # names of passes, in order
    for tree in spec.variants():
        given = tree.child("device")
        name = default if given is None else str(given.value)
        wishes.setdefault(name, wish(name, "device"))
        timing |= dict.fromkeys(
            used.name for used in rule_passes(tree) if any(need.kind == "latency" for need in used.needs)
        )
    clocks = [Clock(f"the pass {name} aims at a latency, which", frozenset(wishes)) for name in timing]
    all_wishes = list(wishes.values())
    if "latency_ms" in spec.search.metrics:
        name = spec.search.latency.device
        all_wishes.append(wish(name, "search", "latency", "device"))
        clocks.append(Clock("latency_ms", frozenset({name})))
    return Demand(tuple(all_wishes), tuple(clocks))


# -- what this machine has


def visible(environment: Mapping[str, str] = os.environ, backend: str = DEFAULT_BACKEND) -> tuple[str, ...]:
    """The devices that a backend sees in an environment, by the names that `CUDA_VISIBLE_DEVICES` has for them.

    Raises RunError where it cannot tell.
    """
    return names(environment.get(VISIBLE), _count(environment, backend))


def names(mask: str | None, count: int) -> tuple[str, ...]:
    """Names of the `count` devices that are seen with `CUDA_VISIBLE_DEVICES` at `mask` (None: not set)."""
    if mask is None:
        return tuple(map(str, range(count)))
    given = [name.strip() for name in mask.split(",")]
    instances = tuple(takewhile(lambda name: name.startswith("MIG-"), given))
    # CUDA shows a process one MIG instance, however many are named; other names count up to the first wrong one
    return instances if instances and count else tuple(given[:count])


def _count(environment: Mapping[str, str], backend: str) -> int:
    """Asked of another process: in this one torch would stay, with some 600 MB, as long as the search takes."""
    if not backends.installed(backend):  # of a plugin file, which no other process has read
        return make_backend(backend).cuda_devices()
    done = subprocess.run([sys.executable, "-c", COUNT, backend], env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"{backend} cannot list the CUDA devices; it wrote:\n{done.stderr.strip()}")
    return int(done.stdout.split()[-1])


def view(devices: Sequence[str], slot: int) -> dict[str, str]:
    """Variables by which worker `slot` (from 1) sees its one of the `devices`; none where they are not divided."""
    return {VISIBLE: devices[(slot - 1) % len(devices)]} if devices else {}


# -- workers of this machine


@dataclass(frozen=True, slots=True)
class Division:
    """`devices`: dealt out to workers by turns; none where they see what this process sees. `notes`: for the user."""

    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def divide(demand: Demand, devices: Sequence[str], workers: int, each: int = 1) -> Division:
    """Deal out the `devices` of this machine: to each at most `each` workers.

    Raises UsageError where a wish cannot be fulfilled, where that is too many workers, and where several would time
    something on one device.
    """
    there = bool(devices)
    wanted, numbered = demand.must, demand.numbered
    if wanted is not None and not there:
        raise UsageError(f"{wanted}, and {_seen(devices)}; use `auto` or `cpu`, or look at {VISIBLE} and the driver")
    if numbered is not None and numbered.number is not None and numbered.number >= len(devices):
        raise UsageError(f"{numbered}, and {_seen(devices)}, numbered from 0; use `cuda`")
    if workers == 1:
        return Division()
    notes = demand.beside_others(there)
    if not there or not demand.may:
        return Division(notes=tuple(notes))
    places = 1 if numbered is not None else len(devices)
    if workers > places * each:
        several = f"--workers-per-device {-(-workers // places)} to let them share"
        if numbered is not None:
            raise UsageError(
                f"{numbered}: {workers} workers would all be on this one device; use `cuda`, which gives each "
                f"worker one of its own, or {several}"
            )
        shared = "" if each == 1 else f" for {each} workers each"
        raise UsageError(
            f"--workers {workers}: {_seen(devices)}{shared}; use --workers {places * each}, or {several}, or set "
            "`device: cpu`"
        )
    if workers > places:
        _refuse_shared_clocks(demand, f"use --workers {places}")
        whose = f"{workers} workers share {_number(places, 'CUDA device')}"
        notes.insert(0, f"{whose}: memory is shared, and times and speeds are those of a device that others load")
    return Division(() if numbered is not None else tuple(devices), tuple(notes))


def _refuse_shared_clocks(demand: Demand, remedy: str) -> None:
    for clock in demand.clocks:
        if clock.on_cuda(True):
            raise UsageError(
                f"{clock.what} would be timed on a CUDA device that other workers use, and so depend on "
                f"their load; {remedy}, or {AIM}"
            )


def _seen(devices: Sequence[str]) -> str:
    named = f" ({VISIBLE}={','.join(devices)})" if tuple(devices) != names(None, len(devices)) else ""
    return f"torch sees {_number(len(devices), 'CUDA device')} here{named}"


def _number(count: float, what: str) -> str:
    return counted(count, what) if count else f"no {what}s"


# -- workers of a Ray cluster


@dataclass(frozen=True, slots=True)
class GpuShare:
    """`gpus`: that Ray reserves for each worker, which sees no others. `notes`: for the user."""

    gpus: float = 0.0
    notes: tuple[str, ...] = ()


def gpu_share(demand: Demand, asked: float | None, workers: int, total: float, largest: float) -> GpuShare:
    """GPUs of each worker on a cluster with so many in `total`, and so many on its `largest` node.

    `asked`: None for one each where a trial would use it and the cluster has any. Raises UsageError where the cluster
    can never give them, where a wish cannot be fulfilled, and where several workers would time something on one.
    """
    have = f"the cluster has {_number(total, 'GPU')}"
    notes: list[str] = []
    gpus = asked
    if gpus is None:
        gpus = 1.0 if total and demand.may else 0.0
        if gpus and workers > total:
            raise UsageError(
                f"--workers {workers}: {have}, one for each worker; use --workers {total:g}, --ray-gpus "
                f"{_fraction(workers, total):g} to let them share, or --ray-gpus 1 to let workers wait for one"
            )
        if gpus:
            notes.append(f"{have}; each worker gets one (--ray-gpus 1)")
    if gpus > largest:
        where = f"the largest node of the cluster has {_number(largest, 'GPU')}; use fewer"
        raise UsageError(f"--ray-gpus {gpus:g}: {where if total else f'{have}; leave it out'}")
    wanted, numbered = demand.must, demand.numbered
    if wanted is not None and not gpus:
        text = f"with --ray-gpus 0 workers see none of {_number(total, 'GPU')}" if total else have
        raise UsageError(f"{wanted}, and {text}; {'leave --ray-gpus out' if total else 'use `auto` or `cpu`'}")
    if numbered is not None and numbered.number is not None and numbered.number >= max(1, gpus):
        raise UsageError(f"{numbered}, but a worker only sees the GPUs that it is given, numbered from 0; use `cuda`")
    if demand.may and not gpus:
        notes.append(f"{have}{' and --ray-gpus 0 gives workers none' if total else ''}: trials run on the CPU")
    if gpus and not demand.may:
        notes.append(f"--ray-gpus {gpus:g}: no trial uses a GPU, since all are on `device: cpu`")
    if 0 < gpus < 1 and workers > 1:
        _refuse_shared_clocks(demand, "use --ray-gpus 1")
        notes.append(f"--ray-gpus {gpus:g}: times and speeds are those of a GPU that other workers may load")
    if workers > 1:
        notes += demand.beside_others(gpus > 0)
    return GpuShare(gpus, tuple(notes))


def _fraction(workers: int, gpus: float) -> float:
    """The share of a GPU by which so many workers fit, rounded down."""
    return int(10_000 / -(-workers // gpus)) / 10_000
