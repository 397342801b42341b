"""Policy search: the choices of a spec become an Optuna study, whose workers may be killed at any time.

Importing this package imports no Optuna; its modules do, and so the names that are loaded on first use. Call `require`
first, for a clear error where it is missing.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from nasir.errors import UsageError
from nasir.lazy import lazy

if TYPE_CHECKING:
    from nasir.search.best import best_trial as best_trial
    from nasir.search.best import resolved_spec as resolved_spec
    from nasir.search.exits import UNFIT as UNFIT
    from nasir.search.export import to_csv as to_csv
    from nasir.search.study import Study as Study
    from nasir.search.summary import study_facts as study_facts
    from nasir.search.worker import Identity as Identity
    from nasir.search.worker import work as work

_HOME = {
    "best_trial": "nasir.search.best",
    "resolved_spec": "nasir.search.best",
    "UNFIT": "nasir.search.exits",
    "to_csv": "nasir.search.export",
    "Study": "nasir.search.study",
    "study_facts": "nasir.search.summary",
    "Identity": "nasir.search.worker",
    "work": "nasir.search.worker",
}

__all__ = ["require", *_HOME]

if not TYPE_CHECKING:  # else a misspelt name would pass for one that is there
    __getattr__, __dir__ = lazy(__name__, _HOME)


def require() -> None:
    """Raise UsageError unless Optuna 5.0 is installed: the storage builds on parts that a 5.1 may change."""
    try:
        installed = version("optuna")
    except PackageNotFoundError:
        raise UsageError("policy search needs Optuna: pip install 'nasir[search]'") from None
    if installed.split(".")[:2] != ["5", "0"]:
        raise UsageError(f"policy search needs Optuna 5.0, this is {installed}: pip install 'nasir[search]'")
