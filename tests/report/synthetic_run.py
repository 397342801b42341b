"""A run directory as the engine leaves it, made without training: p-AutoGrow on three stages, then fine-tuning."""

from __future__ import annotations

import math
import random
from pathlib import Path

from made_records import made
from networks import small_resnet

from nasir.ir import Graph
from nasir.journal.directory import RunDirectory
from nasir.journal.log import Journal

STAGES = ("s1", "s2", "s3")
SPEC = "nasir: 1\nname: <b>grow</b>\n# see </script> & <!-- this\nseed: 3\n"


def _cost(graph: Graph) -> dict[str, int]:
    cost = graph.cost()
    return {"params": cost.params, "macs": cost.macs}


def make_run(path: Path, grow: int = 24, tune: int = 12, every: int = 3, finish: bool = True) -> RunDirectory:
    run = RunDirectory.create(path)
    run.write_spec(SPEC)
    run.write_env({"torch": "2.x", "device": "cpu", "threads": 2})
    depths = [1, 1, 1]
    graph = small_resnet(tuple(depths))
    with run.lock(), run.journal() as journal:
        start = {"name": "<b>grow</b>", "spec_digest": "ab" * 32, "seed": 3, "nasir": "0.1.0", "depths": graph.depths()}
        journal.append(made("start", {**start, "graph": run.put_blob(graph.to_json()), "cost": _cost(graph)}))
        for epoch in range(1, grow + tune + 1):
            phase = "grow" if epoch <= grow else "finetune"
            if epoch in (1, grow + 1):
                journal.append(made("phase", {"phase": phase, "epoch": epoch - 1}))
            _epoch(journal, graph, epoch, phase, epoch if phase == "grow" else epoch - grow)
            if phase == "grow" and epoch % every == 0 and epoch < grow:
                graph = _grow(run, journal, depths, epoch)
        if finish:
            _end(run, journal, graph)
    return run


def _epoch(journal: Journal, graph: Graph, epoch: int, phase: str, phase_epoch: int) -> None:
    noise = random.Random(epoch)
    good = 0.98 - 0.62 * math.exp(-epoch / 9) - (0.03 if phase == "grow" else 0.0) + noise.gauss(0, 0.006)
    metrics = {"train.accuracy": good, "val.accuracy": good - 0.02 + noise.gauss(0, 0.008)}
    metrics |= {"train.loss": 2.3 * (1 - good) + 0.02, "val.loss": 2.3 * (1 - good) + 0.09}
    if epoch == 2:
        metrics["train.loss"] = float("nan")
    cost = {**_cost(graph), "depths": graph.depths()}
    lr = 0.1 if phase == "grow" else 0.1 * 0.1 ** (phase_epoch // 5)
    fields = {"phase": phase, "epoch": epoch, "phase_epoch": phase_epoch, "metrics": metrics, "lr": lr, "seconds": 7.25}
    journal.append(made("epoch", {**fields, **cost}))


def _grow(run: RunDirectory, journal: Journal, depths: list[int], epoch: int) -> Graph:
    stage = STAGES[epoch // 3 % 3]
    place = {"epoch": epoch, "phase": "grow", "site": stage}
    named = {"pass": "insert-block", "options": {"init": "gaussian"}}
    reason = f"every 3 epochs: epoch {epoch}; next in round robin is {stage} <grown>"
    journal.append(made("decision", {**place, **named, "rule": "grow.rules.0", "action": "rewrite", "reason": reason}))
    before = small_resnet(tuple(depths))
    if epoch == 12:
        journal.append(made("declined", {**place, **named, "reason": "past the budget: 512,344 params > 500,000"}))
        freeze = {"rule": "grow.rules.0", "action": "freeze", "reason": "val.accuracy rose by 0.0003 < 0.0005"}
        journal.append(made("decision", {**place, **named, **freeze}))
        return before
    depths[STAGES.index(stage)] += 1
    after = small_resnet(tuple(depths))
    blobs = {"graph": run.put_blob(after.to_json()), "plan": run.put_blob({"of": epoch})}
    facts = {"before": before.digest, "after": after.digest, "depths": after.depths(), "cost": _cost(after)}
    measured = {"preserves": "approximate", "delta_logits": 0.0123 * epoch, "seconds": 0.0123, "settle": None}
    journal.append(made("rewrite", {**place, **named, **blobs, **facts, **measured, "ordinal": epoch // 3}))
    return after


def _end(run: RunDirectory, journal: Journal, graph: Graph) -> None:
    metrics = {"test.accuracy": 0.9412, "test.loss": 0.21, "val.accuracy": 0.943}
    facts = {"cost": _cost(graph), "depths": graph.depths(), "graph": run.put_blob(graph.to_json())}
    journal.append(made("end", {"status": "done", "metrics": metrics, "seconds": 261.0, **facts}))
