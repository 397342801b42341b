"""nasir: networks as immutable typed graphs, rewritten by passes while they train.

    spec = nasir.load_spec("specs/quickstart.yaml")
    graph = nasir.build(spec)
    run = nasir.run(spec, out="runs/first")

Names are loaded on first use, so that `import nasir` stays quick and never imports torch; `nasir.Model` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasir.lazy import lazy

if TYPE_CHECKING:
    from nasir import passes as passes
    from nasir.api import Run as Run
    from nasir.api import resume as resume
    from nasir.api import run as run
    from nasir.backends.torch import Model as Model
    from nasir.backends.torch import Stored as Stored
    from nasir.backends.torch import from_module as from_module
    from nasir.backends.torch import load as load
    from nasir.backends.torch import save as save
    from nasir.errors import Decline as Decline
    from nasir.errors import NasirError as NasirError
    from nasir.errors import NasirWarning as NasirWarning
    from nasir.ir import At as At
    from nasir.ir import Atom as Atom
    from nasir.ir import Draft as Draft
    from nasir.ir import Fill as Fill
    from nasir.ir import Graph as Graph
    from nasir.ir import Port as Port
    from nasir.ir import ValueType as ValueType
    from nasir.ir import op as op
    from nasir.registry import register as register
    from nasir.rewriting.evidence import Evidence as Evidence
    from nasir.rewriting.evidence import Need as Need
    from nasir.rewriting.rewrite import WHOLE as WHOLE
    from nasir.rewriting.rewrite import Pass as Pass
    from nasir.rewriting.rewrite import Refresh as Refresh
    from nasir.rewriting.rewrite import Rewrite as Rewrite
    from nasir.rewriting.rewrite import Settle as Settle
    from nasir.rewriting.rewrite import get_pass as get_pass
    from nasir.running.engine import Signals as Signals
    from nasir.spec import Spec as Spec
    from nasir.spec import import_plugins as import_plugins
    from nasir.spec import load_search as load_search
    from nasir.spec import load_spec as load_spec
    from nasir.spec import loads_spec as loads_spec
    from nasir.spec.network import build as build
    from nasir.version import VERSION as __version__  # noqa: F401

_HOME = {
    "passes": "nasir.passes",
    "Run": "nasir.api",
    "resume": "nasir.api",
    "run": "nasir.api",
    "Model": "nasir.backends.torch",
    "Stored": "nasir.backends.torch",
    "from_module": "nasir.backends.torch",
    "load": "nasir.backends.torch",
    "save": "nasir.backends.torch",
    "Signals": "nasir.running.engine",
    "Decline": "nasir.errors",
    "NasirError": "nasir.errors",
    "NasirWarning": "nasir.errors",
    "Evidence": "nasir.rewriting.evidence",
    "Need": "nasir.rewriting.evidence",
    "At": "nasir.ir",
    "Atom": "nasir.ir",
    "Draft": "nasir.ir",
    "Fill": "nasir.ir",
    "Graph": "nasir.ir",
    "Port": "nasir.ir",
    "ValueType": "nasir.ir",
    "op": "nasir.ir",
    "register": "nasir.registry",
    "WHOLE": "nasir.rewriting.rewrite",
    "Pass": "nasir.rewriting.rewrite",
    "Refresh": "nasir.rewriting.rewrite",
    "Rewrite": "nasir.rewriting.rewrite",
    "Settle": "nasir.rewriting.rewrite",
    "get_pass": "nasir.rewriting.rewrite",
    "Spec": "nasir.spec",
    "import_plugins": "nasir.spec",
    "load_search": "nasir.spec",
    "load_spec": "nasir.spec",
    "loads_spec": "nasir.spec",
    "build": "nasir.spec.network",
    "__version__": "nasir.version:VERSION",
}

__all__ = [*_HOME]

if not TYPE_CHECKING:  # else a misspelt name would pass for one that is there
    __getattr__, __dir__ = lazy(__name__, _HOME)
