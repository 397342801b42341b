"""nasir: networks as immutable typed graphs, rewritten by passes while they train.

    spec = nasir.load_spec("specs/quickstart.yaml")
    graph = nasir.build(spec)
    run = nasir.run(spec, out="runs/first")

Names are loaded on first use, so that `import nasir` stays quick and never imports torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasir.api import Run as Run
    from nasir.api import resume as resume
    from nasir.api import run as run
    from nasir.errors import Decline as Decline
    from nasir.errors import NasirError as NasirError
    from nasir.evidence import Evidence as Evidence
    from nasir.evidence import Need as Need
    from nasir.ir import Draft as Draft
    from nasir.ir import Graph as Graph
    from nasir.ir import Port as Port
    from nasir.ir import op as op
    from nasir.registry import get_pass as get_pass
    from nasir.registry import register as register
    from nasir.rewrite import Pass as Pass
    from nasir.rewrite import Rewrite as Rewrite
    from nasir.spec import Spec as Spec
    from nasir.spec import load_spec as load_spec
    from nasir.spec.network import build as build
    from nasir.version import VERSION as __version__

_HOME = {
    "Run": "nasir.api",
    "resume": "nasir.api",
    "run": "nasir.api",
    "Decline": "nasir.errors",
    "NasirError": "nasir.errors",
    "Evidence": "nasir.evidence",
    "Need": "nasir.evidence",
    "Draft": "nasir.ir",
    "Graph": "nasir.ir",
    "Port": "nasir.ir",
    "op": "nasir.ir",
    "get_pass": "nasir.registry",
    "register": "nasir.registry",
    "Pass": "nasir.rewrite",
    "Rewrite": "nasir.rewrite",
    "Spec": "nasir.spec",
    "load_spec": "nasir.spec",
    "build": "nasir.spec.network",
}

__all__ = [*_HOME, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("nasir.version").VERSION
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'nasir' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
