"""A pass edits a draft for a site; committing gives a `Rewrite`: the next graph and the plan of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeAlias, final

from nasir.errors import Decline, PlanError
from nasir.evidence import Evidence, Need
from nasir.ir.draft import Claim, Draft
from nasir.ir.graph import Graph
from nasir.ir.infer import collector_paused
from nasir.ir.space import Atom
from nasir.transfer.plan import TransferPlan, derive

Site: TypeAlias = str | Atom  # a region path, or a resizable space


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
class Rewrite:
    """One step from a graph to the next. `made_by` names the pass and its options, `site` the place."""

    before: Graph
    graph: Graph
    plan: TransferPlan
    made_by: Mapping[str, Any]
    site: str
    preserves: Claim
    settle: Settle | None = None


class Pass(ABC):
    """A rewrite rule. Subclass as a frozen dataclass whose fields are its options, and register it:

        @register("insert-block")
        @dataclass(frozen=True)
        class InsertBlock(Pass): ...

    `sites` is asked first and must be cheap; `rewrite` edits the draft for one of them, or raises Decline.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[Need, ...]] = ()

    @abstractmethod
    def sites(self, graph: Graph) -> Iterable[Site]:
        """Where the pass could act."""

    @abstractmethod
    def rewrite(self, draft: Draft, site: Any, seen: Evidence) -> Settle | None:
        """Edit `draft` for `site`; raise Decline("why") to refuse. The draft's graph before is `draft.base`."""

    @final
    def options(self) -> dict[str, Any]:
        """The options as plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @final
    def attempt(self, graph: Graph, site: Site, seen: Evidence | None = None) -> Rewrite:
        """Like `apply`, but a refusal raises Decline with its reason."""
        draft = graph.draft()
        with collector_paused():
            settle = self.rewrite(draft, site, seen or Evidence())
            new = draft.commit()
            plan = derive(draft, new)
        if not plan.sources and new == graph:
            raise Decline("nothing to change")
        if draft.preserves == "exact":
            for space in draft.selected:
                if space.mixed:
                    raise PlanError(
                        f"{self.name} claims to be exact but resizes '{space.name}', over which '{space.mixed}' "
                        "normalizes; claim approximate instead"
                    )
        made_by = {"pass": self.name, "options": self.options()}
        return Rewrite(graph, new, plan, made_by, site_name(site), draft.preserves, settle)

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
