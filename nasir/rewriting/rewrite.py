"""A pass edits a draft for a site; committing gives a `Rewrite`: the next graph and the plan of its weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, final

from numpy.typing import NDArray

from nasir.errors import Decline, NasirError, PlanError, UnknownName, UsageError
from nasir.ir.graph import Claim, Draft, Graph
from nasir.ir.infer import collector_paused
from nasir.ir.regions import closest
from nasir.ir.space import Atom
from nasir.options import Checked
from nasir.registry import passes
from nasir.rewriting.evidence import Evidence, Need
from nasir.transfer.derive import derive
from nasir.transfer.plan import TransferPlan

Site: TypeAlias = str | Atom  # a region path, WHOLE, or a resizable space

WHOLE = "network"  # the site of passes that act on the network as a whole
REMARK = "remark"  # the key of a note that is a sentence, shown with the rewrite


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

    def __repr__(self) -> str:
        """One line: which pass acted where, what that did to the size, and what it claims."""
        nodes = f"{len(self.before.nodes)} -> {len(self.graph.nodes)} nodes"
        parameters = f"{self.before.cost().params:,} -> {self.graph.cost().params:,} parameters"
        maker = self.made_by.get("pass") or "a pass without a name"
        return f"<Rewrite: {maker} at {self.site}: {nodes}, {parameters}, preserves: {self.preserves}>"


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
    moves: ClassVar[bool] = False  # whether stages and blocks may have longer names after it, such as `branches.0.s2`
    shrinks: ClassVar[bool] = False  # whether it may leave fewer parameters or MACs: a bound is reached no longer
    settles: ClassVar[bool] = False  # whether it asks for a Settle, which only weights that learn can give

    if TYPE_CHECKING:  # what `get_pass` gives takes the options of the pass, which only its own class knows

        def __init__(self, **options: Any) -> None: ...

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
    def site(self, graph: Graph, site: Site) -> Site:
        """The one of `sites` with a name, as journals and specs write it; a space is returned as it is.

        Raises Decline where there is none, which in a run can be because a rewrite removed it.
        """
        if isinstance(site, Atom):
            return site
        listed = self._listed(graph, site)
        if listed is None:
            raise Decline(self._no_site(graph, site))
        return listed

    def _listed(self, graph: Graph, name: str) -> Site | None:
        return next((site for site in self.sites(graph) if site_name(site) == name), None)

    def _no_site(self, graph: Graph, name: str) -> str:
        hint = closest(str(name), [site_name(site) for site in self.sites(graph)])
        return f"{self.name} has no site '{name}' in the network as it is now; {hint}"

    def _asked_for(self, graph: Graph, site: Site) -> Site:
        """The site that a caller means; the pass itself says why it refuses a place that it does not list now."""
        if isinstance(site, Atom):
            return site
        listed = self._listed(graph, site)
        if listed is not None:
            return listed
        of_spaces = any(isinstance(other, Atom) for other in self.sites(graph))
        space = next((space for space in graph.infer.spaces if space.name == site), None)
        if of_spaces and space is not None:
            return space
        place = site == WHOLE or site in graph.regions or site in graph.labels
        if place and not of_spaces:
            return site
        problem = self._no_site(graph, site)
        raise Decline(problem) if place or space is not None else UnknownName(problem)

    @final
    def attempt(self, graph: Graph, site: Site, seen: Evidence | None = None) -> Rewrite:
        """Like `apply`, but a refusal raises Decline, whose text is the reason."""
        if not isinstance(graph, Graph):
            raise UsageError(f"a pass rewrites a Graph, not a {type(graph).__name__}; that of a model is model.graph")
        site = self._asked_for(graph, site)
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
            for space in draft.resized:
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
            blobs=dict(draft.origins.blobs),
            refresh=after if isinstance(after, Refresh) else None,
            noted=dict(draft.noted),
        )

    @final
    def apply(
        self,
        graph: Graph,
        site: Site,
        seen: Evidence | None = None,
        *,
        on_decline: Callable[[Decline], Any] | None = None,
    ) -> Rewrite | None:
        """Commit, infer, verify: the rewrite of `site`, one of `sites` or its name, or None when the pass declines.

        `on_decline` then gets the Decline, whose text is the reason: `on_decline=print` prints it. Raises UnknownName
        for a name that nothing in the network has.
        """
        try:
            return self.attempt(graph, site, seen)
        except Decline as refusal:
            if on_decline is not None:
                on_decline(refusal)
            return None


def get_pass(name: str) -> type[Pass]:
    """The pass class called `name`: `get_pass("insert-block")(init="zero").apply(graph, site)`.

    Raises UnknownName with the closest names, and NasirError for what is registered as a pass but is none.
    """
    registered = passes.get(name)
    if not (isinstance(registered, type) and issubclass(registered, Pass)):
        problem = f"pass {name!r} is {registered!r}, not a class"
        raise NasirError(f"{problem}; register a subclass of nasir.Pass under that name")
    return registered


def site_name(site: Site) -> str:
    """How journals and specs call a site."""
    return site.name if isinstance(site, Atom) else site


def parts_of(graph: Graph, site: str, paths: tuple[str, ...]) -> tuple[str, ...]:
    """The label prefixes that a pass with the option `paths` acts on: those, or else its site, a region or WHOLE.

    Raises Decline for a path that nothing is labelled by.
    """
    for path in paths:
        if not graph.holds(path):
            known = closest(path, [*graph.regions, *graph.labels])
            raise Decline(f"nothing is labelled '{path}' or below it; {known}")
    if paths or site != WHOLE:
        return paths or (site,)
    tops = {graph.nodes[node_id].label.partition(".")[0] for node_id, slots in graph.infer.slots.items() if slots}
    return tuple(sorted(tops))
