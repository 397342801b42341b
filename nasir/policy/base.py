"""What a policy sees and answers: recorded history and the network as it is now in, decisions out.

A history is the sequence of journal records that are still in effect, oldest first; see `Policy` for what it must hold.
`nasir.growing.fold` reads a long one at little cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from nasir.policy.decision import Decision
from nasir.records import Record

History: TypeAlias = Sequence[Record]
Fault: TypeAlias = tuple[tuple[str | int, ...], str, str]
"""Path below a phase of a spec, what is wrong there, and the remedy."""


@dataclass(frozen=True, slots=True)
class PhaseView:
    """What a policy sees of the current graph: stage paths in network order, blocks per stage, cost.

    `sites` names, by rule, the places of passes that act on something else than stages (blocks, channel spaces, the
    whole network), and of rules that name theirs; `regions` all stages, blocks and branches; `parts` what lies in the
    stages whose names do not say it: the paths of their blocks, and prefixes of labels; `measuring` the rules whose
    pass looks at weights or measurements, so that it may do after an epoch what it declines now.
    """

    stages: tuple[str, ...]
    depths: Mapping[str, int]
    params: int = 0
    macs: int = 0
    sites: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    regions: frozenset[str] = frozenset()
    measuring: frozenset[str] = frozenset()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [stage for stage in self.stages if stage not in self.depths]
        if missing:
            raise ValueError(f"no depth given for stage {', '.join(missing)}")


class Policy(Protocol):
    """Decides which pass acts where and when, as a function of recorded history alone.

    A class that is registered (`nasir.registry.policies`, entry point group `nasir.policies`) is made for each phase as
    `MyPolicy(plan, seed)`, with the plan of the phase and the seed of the run. One with options has a frozen dataclass
    `Options`, whose fields they are, and is made as `MyPolicy(plan, seed, options)`. Optional, for the check of specs:
    `faults(plan, options)`, a static method (without `options` if it has none), yields what is wrong with a phase; it
    replaces the check that the phase ends. `cycle(options)`, a static method, says after how many epochs a policy that
    recalls individuals may do so: the learning rate must be constant or restart with it. `outlives_divergence = True`:
    an epoch whose loss is not finite does not end the run; all its metrics are journaled as NaN. A rewrite whose
    logits are not finite is declined then.

    Lifecycle. After the `phase` record, and after each epoch and its `epoch` record, the engine calls `decide`. It then
    carries out the decisions in order; for each it appends a `decision` record and its outcome. A rewrite ends in one
    `rewrite` record (adopted) or one `declined` record (refused by the pass or past `Decision.budget`), a trial in one
    `rewrite` record of the best site or in a `declined` record of each; `keep`, `recall` and `drop` in `kept`,
    `recalled` and `dropped`. The engine calls `decide` again at the same moment: the answer then
    holds replacements for what was declined and further rules, and is empty once nothing is left to do.
    A loop "while decisions" ends. `end_phase` is always the last decision of its tuple, and nothing follows it.
    A phase whose `epochs` are used up is over without such a decision (see `PhaseProgress`).

    History holds, oldest first, every journal record still in effect (superseded ones removed). Read are
    `phase` {phase}: the records after the last of them belong to the current phase; `epoch` {phase_epoch,
    epoch, metrics, seconds}; `decision` {rule, action, pass, site, reason, individual}; `rewrite` {pass, site,
    seconds}; `declined` {pass, site, reason}; `kept` {individual, metrics, params, macs, depths}; `recalled` and
    `dropped` {individual}. Other kinds are ignored. Because of this a resumed or replayed run
    decides as the uninterrupted one did: no other state may influence the answer, a clock or a global random
    generator least of all.
    """

    def decide(self, history: History, view: PhaseView) -> tuple[Decision, ...]:
        """All decisions of this moment, in order of execution; empty when there is nothing to do."""
        ...
