"""Specs made of good ones by mutation: each is checked, or refused with its place; nothing else happens."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml
from fuzzing import fuzz, mutate_bytes, mutate_text, mutate_tree, mutated, mutations
from spec_examples import VALID

from nasir.running.reach import check_reach
from nasir.spec.network import build
from nasir.spec.search import load_any

pytestmark = pytest.mark.slow

SPECS = [
    VALID.replace("try-this", "insert-block"),
    *(
        files("nasir.specs").joinpath(name).read_text()
        for name in ("quickstart.yaml", "evolution/digits.yaml", "resbuilder/cifar10_cpu.yaml")
    ),
]
SEARCHES = [files("nasir.specs").joinpath(name).read_text() for name in ("search/quickstart.yaml",)]


def checking(folder: Path, overrides: tuple[str, ...] = ()) -> Callable[[bytes], object]:
    """What `nasir check` does of a file with these bytes."""
    file = folder / "s.yaml"

    def check(data: bytes) -> None:
        file.write_bytes(data)
        spec, search = load_any(file, overrides)
        graph = build(spec)
        if search is None:
            check_reach(spec, graph)

    return check


def written(text: str) -> bytes:
    return text.encode(errors="surrogatepass")


def dumped(tree: Any) -> bytes:
    """A tree as YAML, as plainly as the library writes it."""
    return yaml.safe_dump(tree, allow_unicode=True, width=1000).encode(errors="surrogatepass")


@pytest.mark.parametrize("originals", [SPECS, SEARCHES], ids=["specs", "searches"])
def test_fuzz_texts_of_specs(tmp_path: Path, originals: list[str]) -> None:
    cases = mutated(originals, mutate_text, mutations(60), seed=1)
    fuzz(checking(tmp_path), map(written, cases))


def test_fuzz_bytes_of_specs(tmp_path: Path) -> None:
    cases = mutated([written(text) for text in SPECS], mutate_bytes, mutations(60), seed=2)
    fuzz(checking(tmp_path), cases)


@pytest.mark.parametrize("originals", [SPECS, SEARCHES], ids=["specs", "searches"])
def test_fuzz_values_of_specs(tmp_path: Path, originals: list[str]) -> None:
    cases = mutated([yaml.safe_load(text) for text in originals], mutate_tree, mutations(60), seed=3)
    fuzz(checking(tmp_path), map(dumped, cases))
