"""A pass edits a draft for a site; committing gives a `Rewrite`: the next graph and the plan of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, TypeAlias, final

from numpy.typing import NDArray

from nasir.errors import Decline, PlanError
from nasir.evidence import Evidence, Need
from nasir.ir.draft import Claim, Draft
from nasir.ir.graph import Graph
from nasir.ir.infer import collector_paused
from nasir.ir.regions import closest, covers
from nasir.ir.space import Atom
from nasir.options import Checked
from nasir.transfer.plan import TransferPlan, derive

Site: TypeAlias = str | Atom  # a region path, WHOLE, or a resizable space

WHOLE = "network"  # the site of passes that act on the network as a whole


@dataclass(frozen=True, slots=True)
class Settle:
    """Training that a rewrite asks for right after it: only `slots` learn, by Adam, until the old accuracy is back.

    It stops when training accuracy exceeds the accuracy before the rewrite minus `tolerance` (a fraction), after
    `max_epochs` at the latest (AdamInit; AutoGrow, section 3).
    """

    slots: tuple[tuple[int, str], ...]
    lr: float
    tolerance: float
    max_epochs: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """Forward passes in train mode over augmented training data right after a rewrite; nothing learns.

    Only the running statistics of norms move, over `batches` batches or `epochs` epochs (one of the two is above 0).
    `cumulative`: they start anew and become the plain average over all batches; else each batch moves them by the
    norm's momentum. `paths`: labels or label prefixes whose norms move (none: all). Frozen norms stay, unless `frozen`.
    """

    batches: int = 0
    epochs: int = 0
    cumulative: bool = False
    paths: tuple[str, ...] = ()
    frozen: bool = False

    def __post_init__(self) -> None:
        if min(self.batches, self.epochs) < 0 or (self.batches > 0) is (self.epochs > 0):
            raise ValueError(
                f"a refresh takes {self.batches} batches and {self.epochs} epochs; give one of the two, 1 or more"
            )


After: TypeAlias = Settle | Refresh | None  # what a rewrite asks the trainer for, right after it


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One step from a graph to the next. `made_by` names the pass and its options, `site` the place."""

    before: Graph
    graph: Graph
    plan: TransferPlan
    made_by: Mapping[str, Any]
    site: str
    preserves: Claim
    settle: Settle | None = None
    blobs: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # literal arrays of the pass, by digest
    refresh: Refresh | None = None
    noted: Mapping[str, Any] = field(default_factory=dict)  # facts for the journal, which later passes can read there


class Pass(Checked, ABC):
    """A rewrite rule. Subclass as a frozen dataclass whose fields are its options, and register it:

        @register("insert-block")
        @dataclass(frozen=True)
        class InsertBlock(Pass): ...

    Making one checks the options by their annotations, which may bound them: `rate: Annotated[float, Gt(0), Le(1)]`,
    with the package annotated_types. OptionError names each option that is unknown, missing or does not fit; rules
    between options belong into `__post_init__`, as ValueErrors.

    `sites` is asked first and must be cheap; `rewrite` edits the draft for one of them, or raises Decline. A pass that
    offers WHOLE acts on the network as a whole wherever a rule names no place.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ()

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """By the name that it is registered under."""
        return f"pass {cls.name or cls.__name__}"

    @abstractmethod
    def sites(self, graph: Graph) -> Iterable[Site]:
        """Where the pass could act."""

    @abstractmethod
    def rewrite(self, draft: Draft, site: Any, seen: Evidence) -> After:
        """Edit `draft` for `site`; raise Decline("why") to refuse. The draft's graph before is `draft.base`.

        A Settle or Refresh that is returned is carried out right after the rewrite.
        """

    @final
    def options(self) -> dict[str, Any]:
        """The options as plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @final
    def attempt(self, graph: Graph, site: Site, seen: Evidence | None = None) -> Rewrite:
        """Like `apply`, but a refusal raises Decline with its reason."""
        draft = graph.draft()
        with collector_paused():
            try:
                after = self.rewrite(draft, site, seen or Evidence())
            except Decline as refusal:
                refusal.noted = dict(draft.noted)
                raise
            new = draft.commit()
            plan = derive(draft, new)
        if not plan.sources and new == graph and after is None:
            raise Decline("nothing to change")
        if draft.preserves == "exact":
            for space in draft.selected:
                if space.mixed:
                    raise PlanError(
                        f"{self.name} claims to be exact but resizes '{space.name}', over which '{space.mixed}' "
                        "normalizes; claim approximate instead"
                    )
        made_by = {"pass": self.name, "options": self.options()}
        return Rewrite(
            graph,
            new,
            plan,
            made_by,
            site_name(site),
            draft.preserves,
            settle=after if isinstance(after, Settle) else None,
            blobs=dict(draft.blobs),
            refresh=after if isinstance(after, Refresh) else None,
            noted=dict(draft.noted),
        )

    @final
    def apply(self, graph: Graph, site: Site, seen: Evidence | None = None) -> Rewrite | None:
        """Commit, infer, verify: the rewrite of `site`, or None when the pass declines."""
        try:
            return self.attempt(graph, site, seen)
        except Decline:
            return None


def site_name(site: Site) -> str:
    """How journals and specs call a site."""
    return site.name if isinstance(site, Atom) else site


def parts_of(graph: Graph, site: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The label prefixes that a pass with the option `paths` acts on: those, or else its site, a region or WHOLE.

    Raises Decline for a path that nothing is labelled by.
    """
    for path in paths:
        if not any(covers(path, label) for label in graph.labels):
            known = closest(path, [*graph.regions, *graph.labels])
            raise Decline(f"nothing is labelled '{path}' or below it; {known}")
    if paths or site != WHOLE:
        return paths or (site,)
    tops = {graph.nodes[node_id].label.partition(".")[0] for node_id, slots in graph.infer.slots.items() if slots}
    return tuple(sorted(tops))
