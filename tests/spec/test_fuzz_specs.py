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


def test_fuzz_overrides(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(SPECS[0])
    good = [
        "data.batch_size=64",
        "phases.0.rules.0.every=5",
        "network.1.stage={name: s1, block: basic, out: 16}",
        "phases.0.optimizer={adam: {lr: {choose: [0.1, 0.01]}}}",
        "phases.1.schedule.staircase.at.1=0.8",
        "network=[{conv: {out: 4}}, relu, {classifier: {classes: 3}}]",
    ]

    def check(override: str) -> None:
        spec, _ = load_any(tmp_path / "s.yaml", (override,))
        build(spec)

    taken, refused = fuzz(check, mutated(good, mutate_text, mutations(100), seed=4))
    assert taken and refused
