"""What it costs that journals are chained: appending a record, reading a journal, and verifying a whole run.

    python -m benchmarks.journal --out benchmarks/results/journal.json

Append: records of an epoch, a decision and a rewrite, by turns into a journal and into its twin, which writes the same
lines without checksums and reads them back; each line is flushed to disk in both. Verify: a run of 1,000 epochs with
200 rewrites, 64 networks of up to 27 blocks and two checkpoints, in this process and as a command of its own. Wall and
CPU seconds, the fastest of several.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.common import HEAD, report
from nasir.backends.torch import Model
from nasir.backends.torch.weights.checkpoint import save
from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal, _with_record, read_journal
from nasir.records import Record, from_json
from nasir.running.verify import verify
from nasir.spec import loads_spec
from nasir.spec.network import build, initial_plan

R = TypeVar("R", bound=Record)
EPOCHS, EVERY, APPENDS, REPEATS = 1000, 5, 2000, 5
SPEC = (
    f"{HEAD}input: {{image: [3, 32, 32]}}\nnetwork:\n  - conv_bn_relu: {{out: 16, kernel: 3}}\n"
    "  - stage: {name: s1, block: basic, out: 16, depth: DEPTH1}\n"
    "  - stage: {name: s2, block: basic, out: 32, depth: DEPTH2, stride: 2}\n"
    "  - stage: {name: s3, block: basic, out: 64, depth: DEPTH3, stride: 2}\n"
    "  - classifier: {classes: 10}\n"
)
EPOCH: dict[str, Any] = {
    "kind": "epoch",
    "phase": "grow",
    "metrics": {f"{part}.{name}": 0.5178571428571429 for part in ("train", "val") for name in ("loss", "accuracy")},
    "lr": 0.05,
    "seconds": 12.345,
    "cpu_seconds": 12.345,
    "params": 270_000,
    "macs": 41_000_000,
    "depths": {"s1": 3, "s2": 3, "s3": 3},
    "samples": 45_000,
}
DECISION: dict[str, Any] = {
    "kind": "decision",
    "phase": "grow",
    "action": "rewrite",
    "pass": "insert-block",
    "options": {"init": "gaussian"},
    "rule": "grow.rules.0",
    "site": "s1",
    "reason": "every 5 epochs; s1 is first, 3 blocks now, and its accuracy rose by 0.0123 over the last 5 epochs",
}
REWRITE: dict[str, Any] = {
    **{key: DECISION[key] for key in ("phase", "pass", "options", "site")},
    "kind": "rewrite",
    "ordinal": 3,
    **dict.fromkeys(("before", "after", "graph", "plan"), "0" * 64),
    "preserves": "no",
    "delta_logits": 0.054751768708229065,
    "depths": EPOCH["depths"],
    "added": ["s1.3"],
    "removed": [],
    "cost": {"params": 270_000, "macs": 41_000_000},
    "seconds": 0.0631,
    "settle": None,
}


class Plain(Journal):
    """A journal as they were before: the same line without a checksum, read back and flushed to disk."""

    def append(self, record: R) -> R:
        body = {**record.to_json(), "n": len(self._records), "time": self._clock()}
        line = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"
        written = from_json(json.loads(line))
        assert isinstance(written, type(record))
        self._write(line)
        self._size += len(line)
        self._records.append(written)
        self._effective = _with_record(self._effective, written)
        return written


def appended(folder: Path) -> dict[str, Any]:
    """Microseconds of an append: the mean over the kinds of records of the fastest and of the median one."""
    records = [from_json({**data, "epoch": 1}) for data in (EPOCH, DECISION, REWRITE)]
    took: dict[str, list[list[float]]] = {"chained": [[] for _ in records], "plain": [[] for _ in records]}
    with Journal(folder / "chained.jsonl") as chained, Plain(folder / "plain.jsonl") as plain:
        for number in range(APPENDS * len(records)):
            kind = number % len(records)
            for name, journal in (("chained", chained), ("plain", plain))[:: 1 if number % 2 else -1]:
                started = time.perf_counter()
                journal.append(records[kind])
                took[name][kind].append(time.perf_counter() - started)
    told: dict[str, Any] = {}
    for name, times in took.items():
        told[f"{name}_us"] = round(1e6 * statistics.mean(map(min, times)), 1)
        told[f"{name}_median_us"] = round(1e6 * statistics.mean(map(statistics.median, times)), 1)
    told["ratio"] = round(told["chained_us"] / told["plain_us"], 3)
    told["median_ratio"] = round(told["chained_median_us"] / told["plain_median_us"], 3)
    sizes = {name: (folder / f"{name}.jsonl").stat().st_size for name in took}
    return {**told, "bytes": sizes, "bytes_ratio": round(sizes["chained"] / sizes["plain"], 3)}


def networks() -> Iterator[tuple[Graph, Any]]:
    """Networks of 1 to 9 blocks a stage, and a plan of each."""
    for depths in product((1, 3, 6, 9), repeat=3):
        text = SPEC
        for stage, depth in enumerate(depths):
            text = text.replace(f"DEPTH{stage + 1}", str(depth))
        spec = loads_spec(text)
        graph = build(spec)
        yield graph, initial_plan(graph, spec)


def long_run(path: Path) -> RunDirectory:
    """A run of many epochs that was never trained."""
    run = RunDirectory.create(path)
    spec = loads_spec(SPEC.replace("DEPTH1", "1").replace("DEPTH2", "1").replace("DEPTH3", "1"))
    run.write_spec(spec.to_yaml())
    run.write_env({"plugins": {}})
    blobs = []
    for graph, plan in networks():
        blobs.append((run.put_blob(graph.to_json()), run.put_blob(plan.to_json())))
    weights = {"model": dict(Model.from_graph(graph).state_dict())}
    with run.lock(), run.journal() as journal:
        start = {"kind": "start", "name": "long", "seed": 0, "graph": blobs[0][0], "spec_digest": spec.digest}
        journal.append(from_json(start))
        journal.append(from_json({"kind": "phase", "phase": "grow", "epoch": 0, "epochs": EPOCHS}))
        for epoch in range(1, EPOCHS + 1):
            journal.append(from_json({**EPOCH, "epoch": epoch, "phase_epoch": epoch}))
            if epoch % EVERY == 0:
                digest, plan_digest = blobs[(epoch // EVERY) % len(blobs)]
                journal.append(from_json({**DECISION, "epoch": epoch}))
                journal.append(from_json({**REWRITE, "epoch": epoch, "graph": digest, "plan": plan_digest}))
            if epoch % 100 == 0:
                meta = {**journal.chain.mark(), "epoch": epoch}
                save(run.checkpoints, len(journal), weights, meta)
                where = f"checkpoints/step_{len(journal)}"
                journal.append(from_json({"kind": "checkpoint", "step": len(journal), "epoch": epoch, "path": where}))
    return run


def fastest(act: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU seconds, with those of processes that it starts, of the fastest of several."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter(), sum(os.times()[:4])
        act()
        times.append((time.perf_counter() - started[0], sum(os.times()[:4]) - started[1]))
    return {"wall_s": round(min(wall for wall, _ in times), 4), "cpu_s": round(min(cpu for _, cpu in times), 4)}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        append = appended(folder)
        run = long_run(folder / "run")
        verdict = verify(run.path)
        assert verdict.sound, verdict.faults
        command = [sys.executable, "-m", "nasir", "verify", str(run.path), "--json"]
        figures = {
            "append": append,
            "read": fastest(lambda: read_journal(run.journal_path)),
            "verify": fastest(lambda: verify(run.path)),
            "verify_command": fastest(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)),
            "run": {
                **verdict.counts,
                "bytes": sum(file.stat().st_size for file in run.path.rglob("*") if file.is_file()),
            },
        }
    report("journal", figures)


if __name__ == "__main__":
    main()
