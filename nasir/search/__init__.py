"""Policy search: the choices of a spec as an Optuna study, worked on by processes that may die at any moment.

Importing this package imports no Optuna; its modules do. Call `require` first, for a clear error where it is missing.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from nasir.errors import UsageError

__all__ = ["UNFIT", "require"]

UNFIT = 69  # exit code of a worker whose trials fail one after the other, perhaps for a fault of its machine


def require() -> None:
    """Raise UsageError unless Optuna 5.0 is installed: the storage builds on parts that a 5.1 may change."""
    try:
        found = version("optuna")
    except PackageNotFoundError:
        raise UsageError("policy search needs Optuna: pip install 'nasir[search]'") from None
    if found.split(".")[:2] != ["5", "0"]:
        raise UsageError(f"policy search needs Optuna 5.0, this is {found}: pip install 'nasir[search]'")
