"""`remove-weak-blocks`: blocks whose kernels an L1 penalty has driven to nothing are taken out (ResBuilder), or those
that contribute little to their stream.

LayerLasso of the paper scores a kernel by its sum of |w|, the released code by the mean; the code reads the scores of
the run before, so that a block is never judged by the first run it was trained in. Both are blind where a norm follows
the kernel: it undoes what makes all weights smaller. The residual ratio is that of what the branch puts out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Gt, Le

from nasir.analysis.residuals import residual_sums
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
Scores = Mapping[str, Mapping[str, Sequence[float]]]
"""{block: {label of a convolution: [mean |w|, entries]}}, or {block: {label of a residual sum: [ratio]}}."""

FOLLOWED_BY_DELETION = frozenset({"morph-widths", "shrink-widths", "expand-to-budget"})
WEIGHTS, RATIOS = "scores", "ratios"  # the keys under which every firing journals what it measured
THRESHOLD = 1e-3
"""Of |w|, where none is given."""
SLACK = 1e-9  # of a share: a third of three is one


@register("remove-weak-blocks")
@dataclass(frozen=True)
class RemoveWeakBlocks(Pass):
    """Remove every residual block of the network that scores low; its shortcut remains.

    score       of a convolution: mean (released code) or sum (paper) of |w| over its kernel; residual_ratio: of a
                residual sum x + f(x), |f(x)| / |x|, the median over probe samples
    when        any: a block goes when one of its convolutions scores below the threshold (code); all: when all do. Of
                residual sums always all
    threshold   on the score; null: 0.001 for weights, and for residual_ratio `share` instead
    share       remove this part of the candidates, those that score lowest, instead of those below a threshold
    candidates  inserted: only blocks that were inserted in this run; all
    scores      previous: those measured when the rule fired last, and of blocks that existed then (code); current
    grace       epochs that a block is trained for before it may go
    guard       leave all blocks alone when `metric` has risen by more than this since the rule fired last, unless a
                width step came between; null: never mind
    metric      of the guard, a metric of the epoch records
    """

    score: Literal["mean", "sum", "residual_ratio"] = "mean"
    when: Literal["any", "all"] = "any"
    threshold: Positive | None = None
    candidates: Literal["inserted", "all"] = "inserted"
    scores: Literal["previous", "current"] = "previous"
    grace: Whole = 0
    guard: NotNegative | None = 0.015
    metric: str = "val.accuracy"
    share: Annotated[float, Gt(0), Le(1)] | None = None

    shrinks = True

    def __post_init__(self) -> None:
        if self.threshold is not None and self.share is not None:
            raise ValueError(f"threshold is {self.threshold:g}, share {self.share:g}; give one of the two")
        if self.score == "residual_ratio" and self.threshold is self.share is None:
            raise ValueError(
                "score residual_ratio has no usual threshold, as deeper networks have smaller ones; give one, such as "
                "`threshold: 0.05` (`nasir analyze --residual` shows them), or `share: 0.33` for the weakest third"
            )

    @property
    def needs(self) -> tuple[Need, ...]:  # type: ignore[override]
        """What the score is made of."""
        return (Need("residual_ratio" if self.score == "residual_ratio" else "weight_abs"),)

    def sites(self, graph: Graph) -> Iterable[str]:
        """The network as a whole."""
        return [WHOLE]

    def rewrite(self, draft: Draft, site: str, seen: Evidence) -> None:
        """Measure all blocks, journal the scores, and remove the weak ones among the candidates."""
        graph = draft.base
        assert graph is not None
        key = RATIOS if self.score == "residual_ratio" else WEIGHTS
        now = measured_ratios(graph, seen) if key == RATIOS else measured(graph, seen)
        draft.note(key, now)
        before = _last_firing(seen.history, self.name, key)
        born = births(seen.history)
        self._check_guard(seen.history, before)
        scores: Scores = now
        if self.scores == "previous":
            if before is None:
                raise Decline("no scores of an earlier run yet: these are the first")
            index, record = before
            old: Scores = record.noted[key]
            scores = {path: old[path] for path in now if path in old and born.get(path, -1) < index}
        candidates = [path for path in now if scores.get(path) and self._may_go(path, born, seen.history)]
        weak = self._weakest(graph, candidates, scores) if self.share else self._below(candidates, scores)
        weak = [path for path in weak if not any(path.startswith(f"{other}.") for other in weak)]
        gone = [path for path in weak if shortcut_padding(graph, path) is not None]
        if not gone:
            kept = f"; {', '.join(weak)} changed the size of the image and stays" if weak else ""
            limit = f"is among the weakest {self.share:g}" if self.share else f"scores below {self._limit:g}"
            raise Decline(f"none of {counted(len(scores), 'block')} {limit} and may go{kept}")
        draft.note("removed", {path: self._values(scores[path]) for path in gone})
        remove_blocks(draft, gone)

    @property
    def _limit(self) -> float:
        return THRESHOLD if self.threshold is None else self.threshold

    def _may_go(self, path: str, born: Mapping[str, int], history: Sequence[Record]) -> bool:
        if self.candidates == "inserted" and path not in born:
            return False
        if self.grace and path in born:
            age = sum(isinstance(record, EpochRecord) for record in history[born[path] :])
            return age >= self.grace
        return True

    def _below(self, candidates: Sequence[str], scores: Scores) -> list[str]:
        return [path for path in candidates if self._score(scores[path]) < self._limit]

    def _weakest(self, graph: Graph, candidates: Sequence[str], scores: Scores) -> list[str]:
        """The part `share` of the candidates that can be removed, in the order of the network."""
        assert self.share is not None
        able = [path for path in candidates if shortcut_padding(graph, path) is not None]
        ranked = sorted(able, key=lambda path: self._score(scores[path]))
        chosen = {*ranked[: int(self.share * len(able) + SLACK)]}
        return [path for path in able if path in chosen]

    def _score(self, norms: Mapping[str, Sequence[float]]) -> float:
        """Of a block: that of its weakest part, or of its strongest where all have to be weak."""
        values = self._values(norms)
        return min(values) if self.when == "any" and self.score != "residual_ratio" else max(values)

    def _values(self, norms: Mapping[str, Sequence[float]]) -> list[float]:
        return [row[0] * row[1] if self.score == "sum" else row[0] for row in norms.values()]

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


def measured_ratios(graph: Graph, seen: Evidence) -> dict[str, dict[str, list[float]]]:
    """[ratio] of every residual sum in every block, in the order of the network."""
    ratios: dict[str, dict[str, list[float]]] = {block.path: {} for block in graph.blocks}
    for item in residual_sums(graph):
        label = graph.nodes[item.node].label
        ratios[item.block][label] = [seen.residual_ratio(label)]
    return ratios


def births(history: Sequence[Record]) -> dict[str, int]:
    """Index of the record that added each region which was inserted in the run and is still there."""
    born: dict[str, int] = {}
    for index, record in enumerate(history):
        if isinstance(record, RewriteRecord):
            for path in record.removed:
                born.pop(path, None)
            born.update(dict.fromkeys(record.added, index))
    return born


def _last_firing(history: Sequence[Record], name: str, key: str) -> tuple[int, Firing] | None:
    """(index, record) of the last rewrite or refusal of this pass that journaled scores under `key`."""
    for index in range(len(history) - 1, -1, -1):
        record = history[index]
        if isinstance(record, Firing) and record.pass_name == name and key in record.noted:
            return index, record
    return None
