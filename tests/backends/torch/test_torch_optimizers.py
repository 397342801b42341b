"""Every optimizer of the installed torch goes on right through every rewrite, or is refused before anything changes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_laws import REPLICAS, REWRITES, Subject, check_replicas, check_rewrite, copied
from torch.optim import Optimizer

from nasir.testing.backend_contract import Resize

OPTIMIZERS = {
    name: kind
    for name, kind in vars(torch.optim).items()
    if inspect.isclass(kind) and issubclass(kind, Optimizer) and kind is not Optimizer
}
QUICK = ("prune", "widen the stream", "insert")  # rewrites that every run of the tests makes
MATRICES = {"Muon"}  # take in matrices alone
HOW: Mapping[str, Mapping[str, Any]] = {"SparseAdam": {"sparse": True}, "LBFGS": {"closure": True}}
IN_WEIGHTS = ("Rprop", "Adadelta")
ASKED = {  # options that have an optimizer keep more, where it has them
    "momentum": {"momentum": 0.9},
    "amsgrad": {"amsgrad": True},
    "centered": {"centered": True, "momentum": 0.9},
}


def variants() -> list[tuple[str, dict[str, Any]]]:
    found: list[tuple[str, dict[str, Any]]] = []
    for name, kind in OPTIMIZERS.items():
        found.append((name, {}))
        accepted = inspect.signature(kind).parameters
        tiny = (
            {"eps": 1e-30} if "eps" in accepted else {}
        )  # so that what is divided by the root of squares has no scale
        found += [
            (name, {**given, **tiny}) for option, given in ASKED.items() if option in accepted and name not in MATRICES
        ]
    return found


def make(name: str, options: Mapping[str, Any], lr: float, named: Any) -> list[Optimizer]:
    """The optimizer; beside SGD where it takes in matrices alone."""
    matrices = [p for _, p in named if name not in MATRICES or p.ndim == 2]
    rest = [p for _, p in named if all(p is not q for q in matrices)]
    made = [OPTIMIZERS[name](matrices, lr=lr, **options)] if matrices else []
    return [*made, torch.optim.SGD(rest, lr=lr, momentum=0.5)] if rest else made


def ids(value: Any) -> str | None:
    return "-".join(map(str, value)) or "plain" if isinstance(value, dict) else None


@pytest.mark.parametrize(
    "what", [*QUICK, *(pytest.param(what, marks=pytest.mark.slow) for what in REWRITES if what not in QUICK)]
)
@pytest.mark.parametrize(("name", "options"), variants(), ids=ids)
def test_it_goes_on_right_or_is_refused_before_anything_changes(
    name: str, options: Mapping[str, Any], what: str, tmp_path: Path
) -> None:
    told = check_rewrite(what, partial(make, name, options, 0.01), tmp_path / "kept", **HOW.get(name, {}))
    assert (told is not None) == (name == "LBFGS"), told


@pytest.mark.parametrize(("name", "options"), [case for case in variants() if case[0] not in IN_WEIGHTS], ids=ids)
def test_the_state_of_replicas_is_that_of_units_that_always_were(name: str, options: Mapping[str, Any]) -> None:
    apart = ("row_var", "col_var")  # averages over units, which do not say what each of them had
    rate = 1e-300 if name == "SparseAdam" else 0.0  # which it refuses
    told = check_replicas(partial(make, name, options, rate), apart, **HOW.get(name, {}))
    assert (told is not None) == (name == "LBFGS"), told


@pytest.mark.parametrize("name", IN_WEIGHTS)
def test_steps_measured_in_weights_go_on_as_long_as_they_were(name: str) -> None:
    """Their size does not depend on that of the gradients: replicas that share a weight take steps that share its step,
    so that the network goes on as the narrow one does."""
    narrow = Subject(partial(make, name, {}, 0.01))
    narrow.train(4)
    for group in narrow.optimizers[0].param_groups:
        group |= {"eps": 1e-30} if "eps" in group else {}  # which has a size of its own
    wide, still = copied(narrow), copied(narrow)
    for site, index in (("s1.0.conv1", REPLICAS), ("s2.0.conv2", (*range(8), 0, 0, 1))):
        wide.apply(Resize(index), site)
    outputs = narrow.train(4, first=4)
    for a, b in zip(outputs, wide.train(4, first=4), strict=True):
        assert float((a - b).abs().max()) < 1e-7 * float(a.abs().max())
    assert not torch.allclose(outputs[-1], still.train(1, first=7)[0], rtol=1e-3)  # they learn
