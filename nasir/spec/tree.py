"""YAML text as a tree of values that know where they were written.

PyYAML supplies the events only: scalars follow the YAML 1.2 core schema (`1e-3` is a number, `no` is text), a
second value for one key is an error, and size, depth and aliases are checked while the events arrive, before
anything is built, so that an alias bomb costs as little as the text that carries it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeAlias

import yaml

from nasir.options import Path
from nasir.spec.problems import Place, Problem, SpecProblems, raise_problems

MAX_NODES = 20_000  # values with aliases expanded; the largest shipped spec has a few hundred
MAX_DEPTH = 48

Scalar: TypeAlias = bool | int | float | str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping: where the key stands, and its value."""

    key: Place
    tree: Tree


@dataclass(frozen=True, slots=True)
class Tree:
    """A scalar, a tuple of trees (list) or a dict of entries (mapping), with the place of its first character."""

    value: Scalar | tuple[Tree, ...] | Mapping[str, Entry]
    place: Place

    def child(self, step: str | int) -> Tree | None:
        """The value under a key or an index, None when there is none."""
        if isinstance(self.value, Mapping):
            entry = self.value.get(str(step))
            return entry.tree if entry else None
        if isinstance(self.value, tuple) and isinstance(step, int) and 0 <= step < len(self.value):
            return self.value[step]
        return None

    def plain(self) -> Any:
        """The same as dicts, lists and scalars."""
        if isinstance(self.value, Mapping):
            return {key: entry.tree.plain() for key, entry in self.value.items()}
        if isinstance(self.value, tuple):
            return [tree.plain() for tree in self.value]
        return self.value


def children(tree: Tree | None) -> Iterator[tuple[str | int, Tree]]:
    """Key or index, and value, of everything right below."""
    if tree is not None and isinstance(tree.value, Mapping):
        for key, entry in tree.value.items():
            yield key, entry.tree
    elif tree is not None and isinstance(tree.value, tuple):
        yield from enumerate(tree.value)


def is_choice(tree: Tree) -> bool:
    """Whether it is `{choose: ...}`, which stands for one value of several."""
    return isinstance(tree.value, Mapping) and "choose" in tree.value


def as_tree(data: Any, place: Place) -> Tree:
    """Plain data as a tree whose every value stands at `place`."""
    if isinstance(data, Mapping):
        return Tree({str(key): Entry(place, as_tree(item, place)) for key, item in data.items()}, place)
    if isinstance(data, list | tuple):
        return Tree(tuple(as_tree(item, place) for item in data), place)
    return Tree(data, place)


def locate(tree: Tree, path: Path) -> Place:
    """The place of the deepest part of `path` that was written; of its key for a whole missing or empty value."""
    place = tree.place
    for step in path:
        below = tree.child(step)
        if below is None:
            break
        place = below.place
        if below.value is None and isinstance(tree.value, Mapping):
            place = tree.value[str(step)].key
        tree = below
    return place


def key_place(tree: Tree, path: Path) -> Place:
    """The place of the last key of `path` (of the item, in a list)."""
    parent = tree
    for step in path[:-1]:
        below = parent.child(step)
        if below is None:
            return parent.place
        parent = below
    if isinstance(parent.value, Mapping) and path and str(path[-1]) in parent.value:
        return parent.value[str(path[-1])].key
    return locate(tree, path)


INT = re.compile(r"([-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)\Z")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_UNUSABLE = re.compile("[\0\ud800-\udfff]")  # what no path and no file in UTF-8 can hold
_WORDS: dict[str, bool | None] = {"": None, "~": None}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"))
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)


def scalar(text: str) -> Scalar:
    """An unquoted word by the YAML 1.2 core schema; raises ValueError for numbers nasir does not compute with."""
    if text in _WORDS:
        return _WORDS[text]
    if INT.fullmatch(text):
        base = 8 if text.startswith("0o") else 16 if text.startswith("0x") else 10
        number = int(text[2:] if base != 10 else text, base) if len(text) <= 24 else 2**64
        if abs(number) >= 2**63:
            raise ValueError(f"the number {text[:24]}{'...' if len(text) > 24 else ''} does not fit into 64 bits")
        return number
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"{text} is not a finite number")
    if FLOAT.fullmatch(text):
        value = float(text)
        if not math.isfinite(value):
            raise ValueError(f"{text} is too large for a 64-bit float")
        return value
    return text


@dataclass(slots=True)
class _Frame:
    """A list or mapping whose end has not been read yet."""

    place: Place
    anchor: str | None
    is_map: bool
    start: int  # value of the node counter when it was opened
    deepest: int = 0
    items: list[Tree] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    key: str | None = None
    key_place: Place | None = None

    @property
    def wants_key(self) -> bool:
        return self.is_map and self.key_place is None

    @property
    def step(self) -> str | int | None:
        return self.key if self.is_map else len(self.items)


@dataclass(frozen=True, slots=True)
class _Anchored:
    tree: Tree
    nodes: int
    depth: int


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.stack: list[_Frame] = []
        self.anchors: dict[str, _Anchored | None] = {}  # None while the anchored value is still open
        self.nodes = 0
        self.root: Tree | None = None
        self.documents = 0
        self.problems: list[Problem] = []

    def read(self, text: str) -> Tree | None:
        for event in _events(text, self.file):
            self._take(event)
        raise_problems(self.problems)
        return self.root

    def _take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None  # the parser gives every event one
        place = Place(self.file, mark.line + 1, mark.column + 1)
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._fatal(place, "a second document starts here", "keep one document in a file")
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event, place)
        elif isinstance(event, yaml.ScalarEvent):
            self._count(place, 1, 1)
            self._scalar(event, place)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._count(place, 1, 1)
            self._open(event, place)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._close()

    def _fatal(self, place: Place, text: str, remedy: str) -> NoReturn:
        self.problems.append(Problem(place, self._path(), text, remedy))
        raise_problems(self.problems)
        raise AssertionError("unreachable: raise_problems raises for a non-empty list")

    def _path(self) -> Path:
        return tuple(frame.step for frame in self.stack if frame.step is not None)

    def _count(self, place: Place, nodes: int, depth: int) -> None:
        self.nodes += nodes
        if self.nodes > MAX_NODES:
            self._fatal(
                place,
                f"the spec has more than {MAX_NODES} values once aliases are expanded",
                "do not nest aliases of aliases; move data into a file of its own",
            )
        if len(self.stack) + depth > MAX_DEPTH:
            text = f"values are nested more than {MAX_DEPTH} deep"
            raise_problems([*self.problems, Problem(place, (), text, "check the brackets")])

    def _tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent, place: Place) -> None:
        if event.tag is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            self.problems.append(
                Problem(place, self._path(), f"the tag {tag} is not supported", "remove it; quote text instead")
            )

    def _alias(self, event: yaml.AliasEvent, place: Place) -> None:
        if event.anchor not in self.anchors:
            self._fatal(place, f"*{event.anchor} is not defined", f"define &{event.anchor} above, or quote the text")
        target = self.anchors[event.anchor]
        if target is None:
            self._fatal(place, f"*{event.anchor} contains itself", "write the value out; a spec is finite")
        self._count(place, target.nodes, target.depth)
        if self.stack and self.stack[-1].wants_key:
            self._fatal(place, "an alias cannot be a key", "write the key out")
        self._attach(target.tree, target.depth)

    def _scalar(self, event: yaml.ScalarEvent, place: Place) -> None:
        self._tag(event, place)
        value: Scalar = event.value
        if event.style is None and event.tag is None:
            try:
                value = scalar(event.value)
            except ValueError as error:
                self.problems.append(Problem(place, self._path(), str(error), "give a number that a computer can hold"))
                value = 0
        if bad := _UNUSABLE.search(event.value):
            text = f"the character U+{ord(bad[0]):04X} cannot be part of a value"
            self.problems.append(Problem(place, self._path(), text, "remove its escape"))
        if self.stack and self.stack[-1].wants_key:
            self._key(value, place)
            return
        tree = Tree(value, place)
        if event.anchor:
            self.anchors[event.anchor] = _Anchored(tree, 1, 1)
        self._attach(tree, 1)

    def _key(self, value: Scalar, place: Place) -> None:
        frame = self.stack[-1]
        path = self._path()
        if not isinstance(value, str):
            self.problems.append(Problem(place, path, f"the key {value!r} is not text", f'write "{value}" in quotes'))
        elif value == "<<":
            self._fatal(place, "merge keys are not part of YAML 1.2", "write the keys out, or use `extends:`")
        elif value in frame.entries:
            first = frame.entries[value].key
            text = f"the key {value!r} is already given at line {first.line}"
            self.problems.append(Problem(place, (*path, value), text, "remove one of the two"))
        frame.key, frame.key_place = str(value), place

    def _open(self, event: yaml.CollectionStartEvent, place: Place) -> None:
        self._tag(event, place)
        if self.stack and self.stack[-1].wants_key:
            self._fatal(place, "a key must be text, not a list or mapping", "quote it if it is text")
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Frame(place, event.anchor, is_map, self.nodes - 1))

    def _close(self) -> None:
        frame = self.stack.pop()
        tree = Tree(dict(frame.entries) if frame.is_map else tuple(frame.items), frame.place)
        depth = frame.deepest + 1
        if frame.anchor:
            self.anchors[frame.anchor] = _Anchored(tree, self.nodes - frame.start, depth)
        self._attach(tree, depth)

    def _attach(self, tree: Tree, depth: int) -> None:
        if not self.stack:
            self.root = tree
            return
        frame = self.stack[-1]
        frame.deepest = max(frame.deepest, depth)
        if not frame.is_map:
            frame.items.append(tree)
            return
        assert frame.key is not None and frame.key_place is not None
        frame.entries.setdefault(frame.key, Entry(frame.key_place, tree))
        frame.key = frame.key_place = None


def _events(text: str, file: str) -> Iterator[yaml.Event]:
    """Parser events of the pure Python parser: it is lazy, so a limit stops it early."""
    loader = None
    try:
        loader = yaml.SafeLoader(text)
        while loader.check_event():
            yield loader.get_event()  # type: ignore[no-untyped-call]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file, 1, 1)
        problem = " ".join(part for part in (error.problem, error.context) if part)
        raise SpecProblems([Problem(place, (), f"not YAML: {problem}", _syntax_remedy(problem))]) from None
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        problem = f"the character U+{ord(text[error.position]):04X} is not allowed in YAML"
        raise SpecProblems([Problem(place, (), problem, "remove it; a spec is plain text")]) from None
    except (ValueError, OverflowError):  # of int() and chr(), which the parser passes on
        assert loader is not None
        place = Place(file, loader.line + 1, loader.column + 1)
        problem = "not YAML: a number is too large for what it stands for"
        remedy = r"mend the version of `%YAML`, or the escape \U"
        raise SpecProblems([Problem(place, (), problem, remedy)]) from None


def _syntax_remedy(problem: str) -> str:
    if "'\\t'" in problem:
        return "indent with spaces, not tabs"
    if "mapping values are not allowed" in problem:
        return "quote text that contains ': ', or check the indentation"
    if "flow" in problem:
        return "close the bracket, and separate the items with commas"
    if "scalar" in problem or "end of stream" in problem:
        return "close the quote"
    if "cannot start any token" in problem:
        return "put the text into quotes"
    return "check the indentation against the line above"


def parse(text: str, file: str) -> Tree | None:
    """The tree of a YAML text, None when it has no value; raises SpecError naming line and column in `file`."""
    return _Reader(file).read(text)
