"""Saying that axes run over the same units; atoms that are cut for it."""

from __future__ import annotations

from collections.abc import Sequence

from nasir.ir.space import Atom, Axis, Cat, Prod, Space, atoms_of, mix, pin, resolve, size_of


class SpaceMismatch(Exception):
    """Two spaces of different sizes had to be the same; `unify` callers turn it into a TypeRuleError."""


def unify(left: Axis, right: Axis, place: str) -> None:
    """Make two axes run over the same units; `place` names the op for pins that follow.

    Raises SpaceMismatch when the sizes differ. Where the two cannot be expressed as one space, all their
    atoms are pinned: correct, merely not resizable.
    """
    if left is right:
        return
    left, right = resolve(left), resolve(right)
    if left is right:
        return
    if size_of(left) != size_of(right):
        raise SpaceMismatch
    if left.__class__ is right.__class__ is Atom:
        _link(left, right)
    elif isinstance(left, int) or isinstance(right, int):
        pin(left, f"{place} ties it to a fixed size")
        pin(right, f"{place} ties it to a fixed size")
    elif isinstance(left, Atom):
        _bind(left, right, place)
    elif isinstance(right, Atom):
        _bind(right, left, place)
    elif isinstance(left, Cat) and isinstance(right, Cat):
        _unify_cats(left, right, place)
    else:
        _unify_products(left, right, place)


def _bind(atom: Atom, space: Space, place: str) -> None:
    if any(other is atom for other in atoms_of(space)):
        _give_up(atom, space, place)
        return
    _link(atom, space)


def _link(atom: Atom, space: Space) -> None:
    # the older atom stays, so that what flows on through sums keeps the name of its first writer
    if isinstance(space, Atom) and space.source > atom.source:
        atom, space = space, atom
    atom.link = space
    if atom.pin:
        pin(space, atom.pin)
    if atom.mixed:
        mix(space, atom.mixed)


def _give_up(left: Axis, right: Axis, place: str) -> None:
    reason = f"{place} relates {left!r} and {right!r}, which no product or concatenation expresses"
    pin(left, reason)
    pin(right, reason)


def _unify_cats(left: Cat, right: Cat, place: str) -> None:
    """Cut both at their common boundaries and unify piece by piece."""
    ours, theirs = list(left.parts), list(right.parts)
    while ours and theirs:
        # a space that occurs twice may have been cut or bound since the lists were made
        a, b = _first(ours), _first(theirs)
        if a.size == b.size:
            unify(a, b, place)
            continue
        long, short, rest = (a, b, ours) if a.size > b.size else (b, a, theirs)
        if not isinstance(long, Atom):
            _give_up(left, right, place)
            return
        tail = split(long, short.size)
        head, remainder = tail.parts
        unify(head, short, place)
        rest.insert(0, remainder)


def _first(parts: list[Space]) -> Space:
    """Take the first part off the list, links followed and cuts expanded."""
    part = resolve(parts.pop(0))
    assert not isinstance(part, int)
    if isinstance(part, Cat):
        parts[:0] = part.parts[1:]
        return part.parts[0]
    return part


def split(atom: Atom, size: int) -> Cat:
    """Refine an atom into its first `size` units and the rest."""
    parts = Cat((_piece(atom, size), _piece(atom, atom.size - size)))
    atom.link = parts
    return parts


def refine(atom: Atom, runs: int, fixed: bool = False) -> Prod:
    """Refine an atom, whose size `runs` divides, into so many runs of units: which run, and which unit of it.

    `fixed`: the number of runs is no space.
    """
    parts = Prod((runs if fixed else _piece(atom, runs), _piece(atom, atom.size // runs)))
    atom.link = parts
    return parts


def _piece(atom: Atom, size: int) -> Atom:
    piece = Atom(size, atom.source, atom.pin)
    piece.mixed = atom.mixed
    return piece


def _unify_products(left: Space, right: Space, place: str) -> None:
    """Cut both, of which one is a product, at their common boundaries and unify factor by factor."""
    ours, theirs = _factors(left), _factors(right)
    if [size_of(factor) for factor in ours] == [size_of(factor) for factor in theirs]:
        for a, b in zip(ours, theirs, strict=True):
            unify(a, b, place)
        return
    while ours or theirs:
        a, b = _outermost(ours), _outermost(theirs)
        if size_of(a) == size_of(b):
            unify(a, b, place)
        elif 1 in (size_of(a), size_of(b)):  # one unit that the other has no factor for
            alone, other, rest = (a, b, theirs) if size_of(a) == 1 else (b, a, ours)
            pin(alone, f"{place} relates {left!r} and {right!r}, of which one has no such factor")
            rest.insert(0, other)
        else:
            long, short, rest, shorter = (a, b, ours, theirs) if size_of(a) > size_of(b) else (b, a, theirs, ours)
            pieces = _cut(long, size_of(short), place, isinstance(short, int))
            if pieces is None:
                reason = f"{place} relates {left!r} and {right!r}, which no product or concatenation expresses"
                for factor in (a, b, *ours, *theirs):
                    pin(factor, reason)
                return
            rest[:0] = pieces
            shorter.insert(0, short)


def _factors(space: Space) -> list[Axis]:
    return list(space.parts) if isinstance(space, Prod) else [space]


def _outermost(factors: list[Axis]) -> Axis:
    """Take the first factor off the list, links followed and products expanded; 1 where none is left."""
    while factors:
        factor = resolve(factors.pop(0))
        if isinstance(factor, Prod):
            factors[:0] = factor.parts
        elif factor != 1:
            return factor
    return 1


def _cut(axis: Axis, runs: int, place: str, fixed: bool = False) -> list[Axis] | None:
    """An axis, which is no product, as two factors, the first `runs`, a fixed number or a space; None if it cannot.

    A concatenation of equal parts is their number times one of them, whatever `runs` is.
    """
    size = size_of(axis)
    if isinstance(axis, Cat):
        sizes = {part.size for part in axis.parts}
        count = len(axis.parts) if len(sizes) == 1 else runs
        block = None if size % count else _alike(axis, size // count, place)
        return None if block is None else [count, block]
    if size % runs:
        return None
    if isinstance(axis, int):
        return [runs, size // runs]
    assert isinstance(axis, Atom)
    return list(refine(axis, runs, fixed).parts)


def _alike(cat: Cat, size: int, place: str) -> Space | None:
    """What each `size` units of a concatenation are; None where its parts do not end where such a block does."""
    blocks: list[Space] = []
    parts, block, room = list(cat.parts), list[Space](), size
    while parts:
        part = _first(parts)
        if part.size > room:
            if block or part.size % size or not isinstance(part, Atom):
                return None
            parts[:0] = split(part, size).parts
            continue
        block.append(part)
        room -= part.size
        if not room:
            blocks.append(Cat(tuple(block)))
            block, room = [], size
    for other in blocks[1:]:
        unify(blocks[0], other, place)
    return blocks[0]


def regroup(axes: Sequence[Axis], sizes: Sequence[int], place: str) -> list[Axis]:
    """The units of `axes`, row-major, as axes of other sizes: what a reshape makes of them.

    Factors are dealt out from the left, and cut where an axis ends within one. Where sizes do not divide each other,
    the atoms are pinned and the axes are plain numbers.
    """
    factors, made = list(axes), list[Axis]()
    while len(made) < len(sizes):
        group = _dealt(factors, sizes[len(made)], place)
        if group is not None:
            made.append(resolve(Prod(tuple(group))))
            continue
        want, got, first = sizes[len(made)], 1, len(made)
        while got != want:
            if got < want:
                factor = _outermost(factors)
                pin(factor, f"{place} lays it out as {tuple(sizes)}, which are no products of its parts")
                got *= size_of(factor)
            else:
                first += 1
                want *= sizes[first]
        made += sizes[len(made) : first + 1]
    if factors:  # single units behind all others
        if made:
            made[-1] = resolve(Prod((made[-1], *factors)))
        else:
            for factor in factors:
                pin(factor, f"{place} leaves it out")
    return made


def _dealt(factors: list[Axis], size: int, place: str) -> list[Axis] | None:
    """Take factors off the list whose product is `size`; None, and the list as it was, where there are none."""
    taken: list[Axis] = []
    need = size
    while True:
        factor = _outermost(factors)
        count = size_of(factor)
        if need == 1 and (count > 1 or size > 1 or taken):
            if factor != 1:
                factors.insert(0, factor)
            return taken
        if need % count == 0:
            taken.append(factor)
            need //= count
            if factor == 1 or count == size == 1:
                return taken
            continue
        pieces = None if count % need else _cut(factor, need, place)
        if pieces is None:
            factors[:0] = [*taken, factor]
            return None
        factors[:0] = pieces
