"""The architecture cache: equal networks and equal training have equal keys, and nothing else has."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import yaml

from nasir.search.architectures import key, lookup
from nasir.spec import load_spec
from nasir.spec.network import build

STAGED = """\
nasir: 1
name: one
seed: 1
input: {image: [1, 8, 8]}
network:
  - conv_bn_relu: {out: 8, kernel: 3}
  - stage: {name: s1, block: basic, out: 8, depth: 2}
  - stage: {name: s2, block: basic, out: 16, depth: 1, stride: 2}
  - classifier: {classes: 10}
data: {dataset: digits, batch_size: 64, validation: 0.15}
phases:
  - name: grow
    epochs: 4
    optimizer: {sgd: {lr: 0.05}}
    rules:
      - every: 2
        do: {insert-block: {init: zero}}
"""
NAMED = STAGED + "        where: {stages: [s1]}\n"


def key_of(folder: Path, text: str) -> str:
    path = folder / "one.yaml"
    path.write_text(text)
    spec = load_spec(path)
    return key(spec, build(spec))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("name: one", "name: two"),
        ("seed: 1\n", "seed: 1\ncheckpoint: {every: 5, keep: 9}\n"),
        (
            "  - conv_bn_relu: {out: 8, kernel: 3}\n",
            "  - conv: {out: 8, kernel: 3, bias: false}\n  - batch_norm\n  - relu\n",
        ),
        ("name: s1, block: basic, out: 8, depth: 2", "name: first, block: basic, depth: 2, out: 8"),
        ("{sgd: {lr: 0.05}}", "{sgd: {lr: 0.05, momentum: 0.9}}"),
    ],
)
def test_how_it_is_written_does_not_count(old: str, new: str, tmp_path: Path) -> None:
    assert old in STAGED
    assert key_of(tmp_path, STAGED.replace(old, new)) == key_of(tmp_path, STAGED)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("seed: 1", "seed: 2"),
        ("seed: 1\n", "seed: 1\ninit: he_normal\n"),
        ("seed: 1\n", "seed: 1\nprecision: bf16\n"),
        ("batch_size: 64", "batch_size: 32"),
        ("validation: 0.15", "validation: 0.2"),
        ("out: 8, depth: 2", "out: 8, depth: 3"),
        ("out: 16", "out: 12"),
        ("epochs: 4", "epochs: 5"),
        ("lr: 0.05", "lr: 0.06"),
        ("every: 2", "every: 1"),
        ("init: zero", "init: gaussian"),
        ("  - stage: {name: s1, block: basic, out: 8, depth: 2}\n", "  - basic: {out: 8}\n  - basic: {out: 8}\n"),
    ],
)
def test_what_the_result_depends_on_counts(old: str, new: str, tmp_path: Path) -> None:
    """The last one: the same layers, but no stage that a rule could grow."""
    assert old in STAGED
    assert key_of(tmp_path, STAGED.replace(old, new)) != key_of(tmp_path, STAGED)


def test_names_count_where_a_rule_mentions_one(tmp_path: Path) -> None:
    swapped = NAMED.replace("name: s1", "name: s0").replace("name: s2", "name: s1")
    renamed = NAMED.replace("name: s1", "name: s0").replace("[s1]", "[s0]")
    assert len({key_of(tmp_path, text) for text in (NAMED, swapped, renamed)}) == 3
    assert key_of(tmp_path, NAMED.replace("name: one", "name: two")) == key_of(tmp_path, NAMED)


def test_plugins_count_by_what_is_in_them(tmp_path: Path) -> None:
    keys = []
    text = yaml.safe_dump({**yaml.safe_load(STAGED), "plugins": ["./mine.py"]})
    for contents in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "mine.py").write_text(contents)
        keys.append(key_of(tmp_path, text))
    assert keys[0] == keys[2] != keys[1]


class State(Enum):
    COMPLETE = 1
    PRUNED = 2
    FAIL = 3


@dataclass
class Known:
    """As much of an Optuna trial as is looked at."""

    number: int
    state: State
    user_attrs: dict[str, Any] = field(default_factory=dict)


def test_the_first_complete_trial_is_found() -> None:
    same = {"architecture": "k", "data": "d"}
    trials = [
        Known(5, State.COMPLETE, same),
        Known(0, State.COMPLETE),
        Known(1, State.PRUNED, same),
        Known(2, State.FAIL, same),
        Known(3, State.COMPLETE, {"architecture": "other"}),
        Known(4, State.COMPLETE, same),
        Known(2, State.COMPLETE, {**same, "data": "before"}),
    ]
    equal = lookup(trials, "k", lambda: "d")
    assert equal is not None and equal.number == 4
    assert lookup(trials, "k", lambda: "changed") is None
    unread = Mock(side_effect=AssertionError("read without need"))
    assert lookup(trials, "nothing", unread) is None and lookup([], "k", unread) is None
    assert lookup([Known(0, State.COMPLETE, {"architecture": "k"})], "k", unread) is None, "of which data is not known"
