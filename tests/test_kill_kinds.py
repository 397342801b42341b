"""kill -9 at random moments in runs of eight kinds: resumed, each equals the run that nobody killed, bit for bit.

NASIR_KILLS: how many kills in all (default 16).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_runs import HEAD, SPEC, weights, write_spec

import nasir
from nasir.journal.directory import RunDirectory
from nasir.running.prefixes import PrefixStore
from nasir.running.replay import compare
from nasir.running.verify import verify

KILLS = int(os.environ.get("NASIR_KILLS", "16"))


def rules(*texts: str, more: str, sgd: str = "sgd: {lr: 0.05, momentum: 0.9}") -> str:
    """A spec of one phase with those rules."""
    lines = ["phases:", "  - name: all", f"    optimizer: {{{sgd}}}", f"    {more}", "    rules:"]
    return HEAD + "\n".join([*lines, *(f"      - {text}" for text in texts)]) + "\n"


FOUR = "epochs: 4"
GROWTH = "{every: 1, do: {insert-block: {init: gaussian}}}"
EVOLUTION = "policy: {evolve: {population: 2, generations: 3, epochs: 1, mutations: 1, select: {tournament: 2}}}"
TRIAL = "{every: 1, do: {insert-block: {init: zero}}, trial: {epochs: 1, metric: train.loss, min_gain: -9}}"
KINDS = {
    "growth": SPEC,
    "trials": rules(TRIAL, more=FOUR),
    "pruning": rules("{every: 1, do: {prune-channels: {fraction: 0.1}}}", more=FOUR, sgd="adamw: {lr: 0.01}"),
    "settling": rules("{every: 2, do: {insert-block: {init: adam, settle_epochs: 1}}}", more=FOUR),
    "widening": f"checkpoint: {{every: 2}}\n{rules('{every: 1, do: {widen: {factor: 1.5, noise: 0.01}}}', more=FOUR)}",
    "evolution": rules(GROWTH, "{do: {widen: {factor: 1.5, noise: 0.01}}}", more=EVOLUTION).replace("every: 1, ", ""),
    "from a run": rules(GROWTH, more=FOUR).replace(
        HEAD[HEAD.index("network:") : HEAD.index("data:")], "network: {from: run, run: SOURCE}\n"
    ),
    "shared prefixes": rules(GROWTH, more=FOUR),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to begin from."""
    folder = tmp_path_factory.mktemp("source")
    return nasir.run(write_spec(folder, rules(GROWTH, more="epochs: 1")), folder / "run").path


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_runs_that_are_killed_and_resumed_equal_one_that_nobody_killed(kind: str, source: Path, tmp_path: Path) -> None:
    spec = write_spec(tmp_path, KINDS[kind].replace("SOURCE", str(source)))
    whole = nasir.run(spec, tmp_path / "whole")
    store = []
    if kind == "shared prefixes":
        store = [str(tmp_path / "prefixes")]
        nasir.run(spec, tmp_path / "first", prefixes=PrefixStore(store[0], 10**9, 1e9))
    number = list(KINDS).index(kind)
    kills = KILLS // len(KINDS) + (number < KILLS % len(KINDS))
    script = Path(__file__).parent / "kill_runs.py"
    arguments = [str(script), str(spec), str(tmp_path), str(kills), str(number), *store]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    for path in map(Path, json.loads(done.stdout)):
        assert compare(whole.journal, RunDirectory.open(path).effective()) == []
        assert weights(path) == weights(whole.path)
        assert verify(path).faults == []
        assert not list(path.rglob("*.tmp.*"))
