"""Where a rule may act in the network as it is now."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from nasir.errors import RunError
from nasir.ir.regions import covers
from nasir.policy.base import PhaseView
from nasir.policy.plans import RulePlan


def sites_in(rule: RulePlan, view: PhaseView) -> tuple[str, ...]:
    """The sites of a rule that names none exactly, in network order, or in the order of the stages that it lists.

    A listed stage stands for itself, or, for a pass that does not act on stages, for every site that lies in it. One
    that was put into branches stands for its copies there. Raises RunError for a stage that the network does not have.
    """
    known = view.sites.get(rule.name, view.stages)
    chosen: dict[str, None] = {}
    for wanted in rule.where.stages:
        matches = _in_stage(wanted, known, view)
        if not matches and wanted not in view.stages:
            raise RunError(
                f"rule {rule.name} names stage {wanted!r}, which the network does not have; "
                f"its stages are {', '.join(view.stages) or 'none'}"
            )
        chosen.update(dict.fromkeys(matches))
    return tuple(chosen) if rule.where.stages else known


def _in_stage(stage: str, known: Iterable[str], view: PhaseView) -> list[str]:
    there = [site for site in known if site == stage] or [site for site in known if lies_in(site, stage, view)]
    return there or moved(stage, known, view)


def lies_in(site: str, stage: str, view: PhaseView) -> bool:
    """Whether a site is a stage or lies in it, by its name or by the parts of the stage."""
    return any(covers(part, site) for part in view.parts.get(stage, (stage,))) or site == stage


def named_now(name: str, known: Iterable[str], view: PhaseView) -> list[str]:
    """The sites that the exact name of one stands for: itself, or what it has become in branches."""
    return [name] if name in known or name in view.regions else moved(name, known, view)


def sites_of(rule: RulePlan, view: PhaseView) -> tuple[str, ...]:
    """The sites that a rule may act on, whether it names them exactly or by their stages; all its names are known."""
    known = view.sites.get(rule.name, view.stages)
    named = [site for name in rule.where.sites for site in named_now(name, known, view)]
    return tuple(dict.fromkeys(named)) if rule.where.sites else sites_in(rule, view)


def is_known(name: str, rule: RulePlan, view: PhaseView) -> bool:
    """Whether a stage or site that a rule names stands for anything in the network."""
    known = view.sites.get(rule.name, view.stages)
    if name in rule.where.stages:
        return name in view.stages or bool(_in_stage(name, known, view))
    return bool(named_now(name, known, view))


def moved(name: str, known: Iterable[str], view: PhaseView) -> list[str]:
    """The sites that a name of the network before has become: `branches.0.s2` and `branches.1.s2`, of `s2`."""
    if name in view.regions or name in view.stages:
        return []
    return [site for site in known if any(covers(name, rest) for rest in _in_branches(site, view))]


def _in_branches(site: str, view: PhaseView) -> Iterator[str]:
    """What a site is called within each branch that it lies in."""
    parts = site.split(".")
    for end in range(1, len(parts)):
        place = ".".join(parts[:end])
        if any(covers(stage, place) for stage in view.stages):
            return
        if place in view.regions:
            yield ".".join(parts[end:])


def former_names(site: str, view: PhaseView) -> list[str]:
    """A site, and what it may have been called before it was put into branches."""
    parts = site.split(".")
    shorter = [".".join(parts[start:]) for start in range(1, len(parts))]
    return [site, *(name for name in shorter if name not in view.regions and name not in view.stages)]


def depth_at(view: PhaseView, site: str) -> int:
    """Blocks of the stage that a site is or lies in; 0 for a site outside all stages."""
    return next((depth for stage, depth in view.depths.items() if lies_in(site, stage, view)), 0)
