"""Every shipped op keeps the op contract."""

from __future__ import annotations

import pytest

from nasir.registry import ops
from nasir.testing import OpContract, shipped_cases

CASES = shipped_cases()


def test_every_shipped_op_has_cases() -> None:
    shipped = {name for name in ops.names() if ops.get(name).rule.__module__.startswith("nasir.")}
    elsewhere = {name for name in shipped if ops.get(name).foreign or ops.get(name).family in ("mode", "assign")}
    assert shipped - elsewhere == set(CASES) and len(elsewhere) == 5  # tests/importing


@pytest.mark.parametrize("op", sorted(CASES))
@pytest.mark.parametrize("law", sorted(name for name in dir(OpContract) if name.startswith("test_")))
def test_shipped_op(op: str, law: str) -> None:
    class Suite(OpContract):
        cases = CASES[op]

    getattr(Suite(), law)()
