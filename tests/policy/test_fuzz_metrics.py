"""Tables of metrics made of good ones by mutation: each is read, or refused; nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest
from fuzzing import fuzz, mutate_bytes, mutate_text, mutated, mutations

from nasir.policy import read_metrics

pytestmark = pytest.mark.slow

TABLE = "epoch,val.accuracy,val.loss,seconds\n" + "".join(f"{n},0.{n:02},{9 / n},{n}\n" for n in range(1, 20))


def text_mutated(data: bytes, rng: Random) -> bytes:
    return mutate_text(data.decode("utf-8", "replace"), rng).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("mutate", [mutate_bytes, text_mutated])
def test_fuzz_tables_of_metrics(tmp_path: Path, mutate: Callable[[bytes, Random], bytes]) -> None:
    file = tmp_path / "metrics.csv"

    def read(data: bytes) -> None:
        file.write_bytes(data)
        read_metrics(file)

    taken, refused = fuzz(read, mutated([TABLE.encode(), b'epoch,"val.loss"\r\n1,"2"\r\n'], mutate, mutations(300), 1))
    assert taken and refused
