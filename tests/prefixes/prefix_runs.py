"""Pairs of small runs: the second alone, and the second from what the first has left in a store."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from nasir.api import Run, run
from nasir.errors import Preempted
from nasir.journal.directory import RunDirectory
from nasir.records import PrefixRecord
from nasir.running.engine import Signals
from nasir.running.prefixes import PrefixStore
from nasir.spec import Spec, load_spec

SGD = {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1.0e-4}}
BASE: dict[str, Any] = {
    "nasir": 1,
    "name": "small",
    "seed": 5,
    "device": "cpu",
    "precision": "fp32",
    "input": {"image": [3, 8, 8]},
    "network": [
        {"conv_bn_relu": {"out": 4, "kernel": 3}},
        {"stage": {"name": "s1", "block": "basic", "out": 4, "depth": 1}},
        {"stage": {"name": "s2", "block": "basic", "out": 6, "depth": 1, "stride": 2}},
        {"classifier": {"classes": 3}},
    ],
    "data": {
        "dataset": "synthetic",
        "options": {"classes": 3, "size": 8, "channels": 3, "train": 64, "test": 24},
        "batch_size": 16,
        "augment": [{"pad_crop": {"pad": 1}}, "hflip"],
        "validation": 16,
    },
    "phases": [
        {
            "name": "grow",
            "epochs": 5,
            "optimizer": SGD,
            "rules": [{"every": 2, "do": {"insert-block": {"init": "gaussian"}}, "where": {"stages": ["s1", "s2"]}}],
        },
        {"name": "last", "epochs": 2, "optimizer": SGD, "schedule": {"cosine": {}}},
    ],
}
APART = ("checkpoint", "resume", "prefix")
VOLATILE = ("n", "time", "seconds", "cpu_seconds")


def changed(base: Mapping[str, Any], **values: Any) -> dict[str, Any]:
    """A copy with other values, each at its path: `phases__0__rules__0__every=3`; None takes the key away."""
    spec: dict[str, Any] = json.loads(json.dumps(base))  # phases share no part
    for path, value in json.loads(json.dumps(values)).items():
        *way, last = (int(part) if part.isdecimal() else part for part in path.split("__"))
        place: Any = spec
        for part in way:
            place = place[part]
        if value is None:
            del place[last]
        elif isinstance(place, list) and last == len(place):
            place.append(value)
        else:
            place[last] = value
    return spec


def spec_of(folder: Path, data: Mapping[str, Any]) -> Spec:
    """The spec, read from a file as any other."""
    path = folder / "small.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(dict(data), sort_keys=False))
    return load_spec(path)


def store_in(folder: Path, limit: int = 10**9, share: float = 1e9) -> PrefixStore:
    """A store that keeps whatever it is given, unless told otherwise."""
    return PrefixStore(folder / "prefixes", limit, share)


def settled(records: Any) -> list[dict[str, Any]]:
    """What must be equal of two equal runs."""
    return [
        {key: value for key, value in record.items() if key not in VOLATILE}
        for record in records
        if record.kind not in APART
    ]


def state(path: Path) -> dict[str, bytes]:
    """The newest checkpoint's files of tensors: weights, optimizer state, averages."""
    steps = [step for step in (path / "checkpoints").glob("step_*") if ".tmp." not in step.name]
    newest = max(steps, key=lambda step: int(step.name.removeprefix("step_")))
    return {file.name: file.read_bytes() for file in newest.glob("*.safetensors")}


def assert_same(run: Run | Path, alone: Run | Path) -> None:
    """Equal records, equal bytes of weights and optimizer state."""
    first, second = (given if isinstance(given, Path) else given.path for given in (run, alone))
    records = [settled(RunDirectory.open(path).effective()) for path in (first, second)]
    for own, expected in zip(*records, strict=False):
        assert own == expected
    assert len(records[0]) == len(records[1])
    assert state(first) == state(second)


class Begun:
    """Studies with what a first run has left in their store: one run for each spec, however many begin from it."""

    def __init__(self, folder: Path) -> None:
        """`folder`: empty, and kept as long as this."""
        self.folder = folder
        self.studies: dict[str, Path] = {}

    def by(self, first: Mapping[str, Any], **options: Any) -> Path:
        """The folder of such a study, to copy from; the specs of its runs are in `specs` below it."""
        key = json.dumps([first, options], sort_keys=True)
        if key not in self.studies:
            made = self.folder / str(len(self.studies))
            run(spec_of(made / "specs", first), made / "study" / "first", prefixes=store_in(made / "study"), **options)
            self.studies[key] = made
        return self.studies[key]


def shared(begun: Path, folder: Path, second: Mapping[str, Any], **options: Any) -> int:
    """Epochs that the second run takes over from the first; asserts that it equals the same run trained alone."""
    specs = begun / "specs"
    shutil.copytree(begun / "study", folder / "study")
    alone = run(spec_of(specs, second), folder / "alone")
    heard: list[str] = []
    store = store_in(folder / "study")
    done = run(spec_of(specs, second), folder / "study" / "second", prefixes=store, notice=heard.append, **options)
    assert not heard
    assert_same(done, alone)
    prefix = [record for record in done.journal if isinstance(record, PrefixRecord)]
    assert [record.epochs for record in prefix] == ([done.prefix_epochs] if done.prefix_epochs else [])
    assert all(record.run == "first" for record in prefix)
    return done.prefix_epochs


def taken(spec: Spec, out: Path, store: PrefixStore) -> int:
    """Epochs that a run takes over; it is stopped in the first epoch of its own."""
    signals = Signals()
    signals.exit_code = 75
    with pytest.raises(Preempted):
        run(spec, out, prefixes=store, signals=signals)
    return sum(record.epochs for record in RunDirectory(out).effective() if isinstance(record, PrefixRecord))


EVOLVED = changed(
    BASE,
    phases__0={
        "name": "evolve",
        "optimizer": SGD,
        "policy": {"evolve": {"population": 2, "generations": 4, "epochs": 1, "replace": "oldest"}},
        "rules": [
            {"do": {"insert-block": {"init": "gaussian"}}, "weight": 2},
            {"do": {"widen": {"factor": 1.5, "noise": 0.01}}},
        ],
    },
)
