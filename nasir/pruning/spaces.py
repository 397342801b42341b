"""Which spaces a pruning acts on, and in what steps their sizes may change."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import gcd
from typing import Literal, TypeAlias

from nasir.errors import Decline, GraphError
from nasir.ir.graph import Graph
from nasir.ir.regions import closest
from nasir.ir.space import Atom, Axis, Cat, Prod, resolve
from nasir.rewriting.rewrite import WHOLE

Kind: TypeAlias = Literal["channels", "groups", "widths", "heads", "head_dims"]
FACTORS: dict[str, Kind] = {"groups": "groups", "heads": "heads", "head_dim": "head_dims"}  # by mirroring attribute


@dataclass(frozen=True, slots=True)
class Resizable:
    """A space that may lose units: it keeps `floor` at least, and a multiple of `step` or all."""

    atom: Atom
    floor: int
    step: int

    def allowed(self, kept: int) -> int:
        """The smallest allowed size of at least `kept`."""
        wanted = max(kept, self.floor)
        return min(self.atom.size, -(-wanted // self.step) * self.step)

    def above(self, kept: int) -> int:
        """The next allowed size above `kept`; the whole size where there is none."""
        return min(self.atom.size, (kept // self.step + 1) * self.step)


def kinds_of(graph: Graph) -> tuple[dict[Atom, Kind], dict[Atom, list[tuple[Atom, ...]]]]:
    """The kind of every space, and for factors of products the atoms of each product.

    "channels" lie one after another along an axis; "groups" and "heads" count equal parts of one, "widths" and
    "head_dims" are the sizes of such parts: removing one of those units removes it in every part.
    """
    whole: set[Atom] = set()
    attrs: dict[Atom, str] = {}
    products: dict[Atom, list[tuple[Atom, ...]]] = {}
    for node_id, entries in graph.infer.mirrors.items():
        if graph.nodes[node_id].facts.family == "shape":
            continue  # it repeats what others write
        for (attr, _), axis in entries.items():
            space: Axis = resolve(axis)
            if isinstance(space, Atom) and attr in FACTORS:
                attrs.setdefault(space, attr)
                continue
            for part in space.parts if isinstance(space, Cat) else (space,):
                if isinstance(part, Atom):
                    whole.add(part)
                elif isinstance(part, Prod):
                    factors = tuple([factor for factor in part.parts if isinstance(factor, Atom)])
                    for factor in factors:
                        products.setdefault(factor, []).append(factors)
    kinds: dict[Atom, Kind] = {}
    for atom in graph.infer.spaces:
        if atom in whole:
            kinds[atom] = "channels"
        else:
            kinds[atom] = FACTORS[attrs[atom]] if atom in attrs else "widths"
    return kinds, products


def chosen(graph: Graph, site: str | Atom, wanted: Collection[str], floor: int, multiple_of: int) -> list[Resizable]:
    """The spaces that pruning at `site` acts on: one space (or its name), those first written in a region, or all.

    `multiple_of` holds for channels: where a space is a factor of them, the other factors count towards it. Raises
    Decline where nothing may be pruned, with the reason.
    """
    kinds, products = kinds_of(graph)
    if isinstance(site, str) and site != WHOLE and site not in graph.regions:
        named = [atom for atom in graph.infer.spaces if atom.name == site]
        if not named:
            known = [*graph.regions, *[atom.name for atom in graph.infer.spaces]]
            raise GraphError(f"no region or space {site!r}; {closest(site, known)}")
        site = named[0]
    if isinstance(site, Atom):
        if not site.resizable:
            raise Decline(f"space '{site.name}' cannot be resized: {site.pin}")
        atoms = [site]
    else:
        inside = None if site == WHOLE else set(graph.members(site))
        here = [atom for atom in graph.infer.spaces if inside is None or atom.source in inside]
        free = [atom for atom in here if atom.resizable]
        atoms = [atom for atom in free if kinds[atom] in wanted]
        if not atoms:
            raise Decline(_nothing(site, here, free, kinds, wanted))
    resizable = []
    picked = set(atoms)
    for atom in atoms:
        step = multiple_of
        for factors in products.get(atom, ()):
            others = 1
            for factor in factors:
                others *= 1 if factor in picked else factor.size
            step = min(step, multiple_of // gcd(multiple_of, others))
        resizable.append(Resizable(atom, min(floor, atom.size), step))
    return resizable


def _nothing(site: str, here: list[Atom], free: list[Atom], kinds: dict[Atom, Kind], wanted: Collection[str]) -> str:
    if free:
        known = ", ".join(sorted({kinds[atom] for atom in free}))
        return f"'{site}' has spaces of kind {known}, and `spaces` allows {', '.join(wanted)} only"
    reasons = dict.fromkeys(f"'{atom.name}': {atom.pin}" for atom in here)
    return f"no space written in '{site}' can be resized" + (f" ({'; '.join([*reasons][:3])})" if reasons else "")
