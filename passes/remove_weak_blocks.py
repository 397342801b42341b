"""`remove-weak-blocks`: blocks whose kernels an L1 penalty has driven to nothing are taken out (ResBuilder).

LayerLasso of the paper scores a kernel by its sum of |w|, the released code by the mean; the code reads the scores of
the run before, so that a block is never judged by the first run it was trained in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nasir.blocks.removal import remove_blocks, shortcut_padding
from nasir.counted import counted
from nasir.errors import Decline
from nasir.ir import Draft, Graph
from nasir.options.ranges import NotNegative, Positive, Whole
from nasir.records import DeclinedRecord, EpochRecord, Record, RewriteRecord
from nasir.registry import register
from nasir.rewriting.evidence import Evidence, Need
from nasir.rewriting.rewrite import WHOLE, Pass

Firing = RewriteRecord | DeclinedRecord
Scores = Mapping[str, Mapping[str, Sequence[float]]]  # {block: {label of a convolution: [mean |w|, entries]}}

FOLLOWED_BY_DELETION = frozenset({"morph-widths", "shrink-widths", "expand-to-budget"})
SCORES = "scores"  # the key under which every firing journals what it measured


@register("remove-weak-blocks")
@dataclass(frozen=True)
class RemoveWeakBlocks(Pass):
    """Remove every residual block of the network whose convolutions have small weights; its shortcut remains.

    score       of a convolution: mean (released code) or sum (paper) of |w| over its kernel
    when        any: a block goes when one of its convolutions scores below the threshold (code); all: when all do
    threshold   on the score
    candidates  inserted: only blocks that were inserted in this run; all
    scores      previous: those measured when the rule fired last, and of blocks that existed then (code); current
    grace       epochs that a block is trained for before it may go
    guard       leave all blocks alone when `metric` has risen by more than this since the rule fired last, unless a
                width step came between; null: never mind
    metric      of the guard, a metric of the epoch records
    """

    score: Literal["mean", "sum"] = "mean"
    when: Literal["any", "all"] = "any"
    threshold: Positive = 1e-3
    candidates: Literal["inserted", "all"] = "inserted"
    scores: Literal["previous", "current"] = "previous"
    grace: Whole = 0
    guard: NotNegative | None = 0.015
    metric: str = "val.accuracy"

    shrinks = True
    needs: ClassVar[tuple[Need, ...]] = (Need("weight_abs"),)

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network as a whole."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Measure all blocks, journal the scores, and remove the weak ones among the candidates."""
        graph = draft.base
        assert graph is not None
        now = measured(graph, seen)
        draft.note(SCORES, now)
        before = _last_firing(seen.history, self.name)
        born = births(seen.history)
        self._check_guard(seen.history, before)
        scores: Scores = now
        if self.scores == "previous":
            if before is None:
                raise Decline("no scores of an earlier run yet: these are the first")
            index, record = before
            old: Scores = record.noted[SCORES]
            scores = {path: old[path] for path in now if path in old and born.get(path, -1) < index}
        weak = [path for path in now if path in scores and self._goes(path, scores[path], born, seen.history)]
        weak = [path for path in weak if not any(path.startswith(f"{other}.") for other in weak)]
        gone = [path for path in weak if shortcut_padding(graph, path) is not None]
        if not gone:
            kept = f"; {', '.join(weak)} changed the size of the image and stays" if weak else ""
            raise Decline(f"none of {counted(len(scores), 'block')} scores below {self.threshold:g} and may go{kept}")
        draft.note("removed", {path: self._values(scores[path]) for path in gone})
        remove_blocks(draft, gone)

    def _goes(
        self, path: str, norms: Mapping[str, Sequence[float]], born: Mapping[str, int], history: Sequence[Record]
    ) -> bool:
        if self.candidates == "inserted" and path not in born:
            return False
        if self.grace and path in born:
            age = sum(isinstance(record, EpochRecord) for record in history[born[path] :])
            if age < self.grace:
                return False
        low = [value < self.threshold for value in self._values(norms)]
        return bool(low) and (any(low) if self.when == "any" else all(low))

    def _values(self, norms: Mapping[str, Sequence[float]]) -> list[float]:
        return [mean * count if self.score == "sum" else mean for mean, count in norms.values()]

    def _check_guard(self, history: Sequence[Record], before: tuple[int, Firing] | None) -> None:
        """Decline when the accuracy of the run now over is well above that of the run before."""
        if self.guard is None or before is None:
            return
        since = history[before[0] :]
        if any(isinstance(record, RewriteRecord) and record.pass_name in FOLLOWED_BY_DELETION for record in since):
            return
        last, earlier = self._value(since), self._value(history[: before[0]])
        if last is not None and earlier is not None and last - earlier > self.guard:
            raise Decline(f"{self.metric} rose from {earlier:.4g} to {last:.4g}, by more than {self.guard:g}")

    def _value(self, records: Sequence[Record]) -> float | None:
        """The metric in the last epoch of `records`; Decline if epochs do not have it."""
        for record in reversed(records):
            if isinstance(record, EpochRecord):
                if self.metric not in record.metrics:
                    raise Decline(f"the epochs have no metric {self.metric!r}; they have {', '.join(record.metrics)}")
                return float(record.metrics[self.metric])
        return None


def measured(graph: Graph, seen: Evidence) -> dict[str, dict[str, list[float]]]:
    """[mean |w|, entries] of every convolution in every block, in the order of the network."""
    norms: dict[str, dict[str, list[float]]] = {}
    for block in graph.blocks:
        weights = [weight for n in graph.members(block.path) for weight in graph.weights(n).values()]
        labels = dict.fromkeys(graph.nodes[key.node].label for key, slot in weights if slot.is_convolution)
        norms[block.path] = {label: seen.per_weight("weight_abs", label).tolist() for label in labels}
    return norms


def births(history: Sequence[Record]) -> dict[str, int]:
    """Index of the record that added each region which was inserted in the run and is still there."""
    born: dict[str, int] = {}
    for index, record in enumerate(history):
        if isinstance(record, RewriteRecord):
            for path in record.removed:
                born.pop(path, None)
            born.update(dict.fromkeys(record.added, index))
    return born


def _last_firing(history: Sequence[Record], name: str) -> tuple[int, Firing] | None:
    """(index, record) of the last rewrite or refusal of this pass that journaled scores."""
    for index in range(len(history) - 1, -1, -1):
        record = history[index]
        if isinstance(record, Firing) and record.pass_name == name and SCORES in record.noted:
            return index, record
    return None
