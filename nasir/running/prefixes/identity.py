"""What a state of training depends on, as digests: what stays the same over a run, and the training of a phase."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nasir import registry
from nasir.files import canonical_json
from nasir.ir import Graph
from nasir.records import Record, ResumeRecord, StartRecord
from nasir.running.engine import setup_of
from nasir.spec import Spec
from nasir.spec.beside import digest_of
from nasir.spec.model_source import RunNetwork, is_file
from nasir.spec.network import initial_plan
from nasir.training.backend import DEFAULT_BACKEND, Session
from nasir.training.plans import OptimizerPlan, PenaltyPlan, TrainPlan
from nasir.version import VERSION

# of variables that choose kernels or their precision
KERNELS = ("ATEN_", "CUBLAS_", "CUDNN_", "DNNL_", "MKL_", "NVIDIA_TF32_", "ONEDNN_", "TORCH_ALLOW_TF32_")
OWN = "nasir."  # modules of nasir itself
REGISTRIES = (registry.passes, registry.policies, registry.ops, registry.blocks, registry.datasets)


def plain(value: Any) -> Any:
    """Plans and options as JSON data."""
    if isinstance(value, OptimizerPlan | PenaltyPlan):
        return plain(value.identity())
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(entry) for entry in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return str(value) if isinstance(value, Path) else value


def digest(value: Any) -> str:
    """SHA-256 of plain data."""
    return hashlib.sha256(canonical_json(plain(value))).hexdigest()


def environment_digest(session: Session, data: str) -> str:
    """Everything that training depends on and that is in no spec: versions, device, threads, kernels, and the data.

    `data`: the fingerprint that the session gives of them.
    """
    told = session.describe()
    return digest(
        {
            "session": told,
            "data": data,
            "packages": [own.packages() for own in REGISTRIES] + _foreign(registry.optimizers, registry.penalties),
            "versions": [VERSION, version("numpy")],
            # kernels differ from one model to the next
            "processor": _processor() if told.get("device") == "cpu" else None,
            "variables": {name: value for name, value in os.environ.items() if name.startswith(KERNELS)},
        }
    )


def _foreign(*registries: registry.Registry) -> list[dict[str, str]]:
    """Versions of other packages by name; empty without any, so that digests of before there were registries hold."""
    foreign = [{name: version for name, version in own.packages().items() if name != "nasir"} for own in registries]
    return foreign if any(foreign) else []


def environments(first: str | None, records: Iterable[Record]) -> set[str | None]:
    """Digests of the environments that a run was in so far, None among them where one is unknown.

    `first`: the one it began in; `records`: all of its journal, void ones included. What it did before it started over
    does not count.
    """
    digests = {first}
    for record in records:
        if isinstance(record, ResumeRecord):
            if record.checkpoint_step is None:
                digests.clear()
            digests.add(record.environment)
    return digests


def static_digest(
    spec: Spec, start: StartRecord, graph: Graph, base: Path, environment: str, plugins: Mapping[str, str]
) -> str:
    """Everything that training depends on and that does not change over a run.

    `start`: the run's first record; `graph`: its network, ids included, as random streams go by them; `environment`:
    see `environment_digest`; `plugins`: SHA-256 of the files the spec imports, by name.
    """
    setup = plain(setup_of(spec, base.resolve()))
    del setup["module"]  # told by `imported`
    if setup["weights"] is not None and is_file(setup["weights"][1]):
        setup["weights"] = [setup["weights"][0], digest_of(setup["weights"][1])]
    del setup["device"]  # the one it came to is in `environment`
    if setup["data"]["class_weights"] is None:  # digests were made before classes had weights
        del setup["data"]["class_weights"]
    if setup["data"]["metrics"] is None:  # digests were made before metrics could be named
        del setup["data"]["metrics"]
    network = spec.network
    # the default one is among what `environment` tells
    backend = {} if spec.backend == DEFAULT_BACKEND else {"backend": [spec.backend, registry.backends.packages()]}
    inherited = [(start.inherited or {}).get("manifest"), network.weights] if isinstance(network, RunNetwork) else None
    return digest(
        {
            "graph": start.graph,
            "plan": initial_plan(graph, spec).to_json(),
            "setup": setup,
            "environment": environment,
            "inherited": inherited,
            **({} if start.imported is None else {"imported": {**start.imported, "untyped": None}}),
            "plugins": plugins,
            **backend,
        }
    )


def training_digest(plan: TrainPlan) -> str:
    """The digest of everything that a phase trains with, except its length."""
    return digest(plan)


def length_matters(plan: TrainPlan) -> bool:
    """Whether the learning rate depends on the number of epochs of its phase."""
    return plan.schedule.kind != "constant" and plan.schedule.restart is None


def has_foreign_code(spec: Spec) -> bool:
    """Whether passes or policies from elsewhere decide: they may read anything in the history."""
    plans = [phase.plan() for phase in spec.phases]
    used = [registry.policies.get(plan.policy) for plan in plans]
    used += [registry.passes.get(rule.pass_name) for plan in plans for rule in plan.rules]
    return bool(spec.plugins) or any(not component.__module__.startswith(OWN) for component in used)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    return next((line for line in lines if line.startswith("model name")), platform.processor() or platform.machine())
