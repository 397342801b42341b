"""The passes of `spec_examples`, registered for the tests of the spec only."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from spec_examples import Needy, Trial

from nasir.registry import passes


@pytest.fixture(autouse=True, scope="package")
def trial_passes() -> Iterator[None]:
    known = dict(passes._objects)
    passes.register("try-this")(Trial)
    passes.register("try-needy")(Needy)
    yield
    passes._objects.clear()
    passes._objects.update(known)
