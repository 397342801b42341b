"""Spec files to one raw tree: reading, `extends:` and `--set`; every value keeps the file and line it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import isdir
from pathlib import Path as File
from stat import S_ISREG

from nasir.errors import SpecError, printable
from nasir.options import Path, close_match, dotted
from nasir.spec.model import Spec
from nasir.spec.problems import Place, Problem, SpecProblems
from nasir.spec.tree import MAX_DEPTH, Entry, Tree, is_choice, locate, parse

MAX_BYTES = 1 << 20
MAX_EXTENDS = 8
MAX_OVERRIDE = 200  # characters of an override that messages repeat
_KEYS = re.compile(rf"(^|[{{,])\s*[\"']?({'|'.join(('extends', *Spec.model_fields))})[\"']?\s*:\s", re.M)
"""A key of a spec."""
_WORD = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,60}")
CHOICE_KEYS = ("choose", "default", "name")
"""What a choice consists of."""


@dataclass(frozen=True, slots=True)
class Raw:
    """A merged, unvalidated spec: the tree, and the files it came from, the spec itself first."""

    tree: Tree
    files: tuple[File, ...]


def load_raw(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Raw:
    """Read a spec with everything it extends, then apply `a.b.0=value` overrides in their order."""
    raw = _extended(File(path), None, ())
    return Raw(overridden(raw.tree, overrides), raw.files)


def read_text(path: File, regular: bool = False) -> str:
    """The text of a spec file; every reason why there is none is a SpecError.

    `regular`: a device or a pipe is refused unread; it may never end, or never begin.
    """
    if isdir(path):  # unlike `Path.is_dir` it takes any name
        inside = path / "spec.yaml"
        hint = f"give {inside}, or continue that run with `nasir resume {path}`" if inside.is_file() else "give a file"
        raise SpecError(f"{path}: is a directory, not a spec; {hint}")
    try:
        if regular and not S_ISREG(path.stat().st_mode):
            raise SpecError(f"{path}: is no regular file; name a file that holds a spec")
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise SpecError(f"{path}: no such file; {_nearby(path)}") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SpecError(f"{path}: cannot be read ({reason}); check the path and its permissions") from None
    if len(data) > MAX_BYTES:
        raise SpecError(f"{path}: is larger than {MAX_BYTES} bytes; a spec describes data, it does not contain it")
    if b"\0" in data:
        raise SpecError(f"{path}: is a binary file; a spec is YAML text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(str(path), before.count(b"\n") + 1, len(before) - before.rfind(b"\n"))
        raise SpecError(f"{place}: is not UTF-8 text (byte 0x{data[error.start]:02x}); save it as UTF-8") from None


def _nearby(path: File) -> str:
    if not isdir(path.parent):
        return f"the folder {path.parent} does not exist either"
    close = close_match(path.name, sorted(file.name for file in path.parent.glob("*.y*ml")))
    return f"did you mean {path.parent / close}?" if close else f"{path.parent} holds no spec of a similar name"


def parse_mapping(text: str, file: str) -> Tree:
    """The tree of a spec's text, which must be a mapping of keys."""
    tree = parse(text, file)
    if tree is None or tree.value is None:
        raise SpecError(f"{file}:1:1: the spec is empty; start with `nasir: 1`")
    if not isinstance(tree.value, Mapping):
        raise SpecError(f"{tree.place}: a spec is a mapping of keys, not {kind_of(tree)}; start with `nasir: 1`")
    return tree


def kind_of(tree: Tree | None) -> str:
    """What a tree that is not a mapping is, in words."""
    if tree is None or tree.value is None:
        return "empty"
    return "a list" if isinstance(tree.value, tuple) else f"one value ({tree.value!r:.40})"


def _extended(path: File, asked_by: Problem | None, chain: tuple[File, ...]) -> Raw:
    """`path` merged over the files it extends; `asked_by` stands for the `extends:` that names it."""
    try:
        text = read_text(path, regular=asked_by is not None)
    except SpecError as error:
        if asked_by is None:
            raise
        # the file that names it is the one to correct
        raise SpecError(f"{asked_by.place}: extends: {error}") from None
    identity = path.resolve()
    if asked_by is not None:
        _check_chain(asked_by, chain, identity)
    tree = parse_mapping(text, str(path)) if asked_by is None else _parsed_base(text, path, asked_by)
    base = tree.child("extends")
    if base is None:
        return Raw(tree, (path,))
    asking = Problem(locate(tree, ("extends",)), ("extends",), "expected the path of one spec, relative to this file")
    if not isinstance(base.value, str) or not base.value:
        raise SpecError(str(replace(asking, remedy="write `extends: base.yaml`")))
    below = _extended(path.parent / base.value, asking, (*chain, identity))
    return Raw(merge(below.tree, without(tree, "extends")), (path, *below.files))


def _parsed_base(text: str, path: File, asked_by: Problem) -> Tree:
    """The tree of what a spec extends. What seems to be no spec may be secret: no message repeats its content."""
    try:
        tree = parse_mapping(text, str(path))
    except SpecProblems as error:
        if _KEYS.search(text):
            raise
        place = error.problems[0].place
        raise SpecError(f"{place}: not YAML of a spec; correct it, or the `extends` at {asked_by.place}") from None
    except SpecError:  # no mapping
        pass
    else:
        assert isinstance(tree.value, Mapping)
        if _KEYS.search(text) or all(map(_WORD.fullmatch, tree.value)):
            return tree
    raise SpecError(str(replace(asked_by, text=f"{path} is no spec", remedy="name a file that is a mapping of keys")))


def _check_chain(asked_by: Problem, chain: tuple[File, ...], identity: File) -> None:
    if identity in chain:
        ring = " -> ".join(file.name for file in (*chain[chain.index(identity) :], identity))
        raise SpecError(str(replace(asked_by, text=f"extends itself ({ring})", remedy="break the circle")))
    if len(chain) > MAX_EXTENDS:
        text = f"more than {MAX_EXTENDS} specs extend each other"
        raise SpecError(str(replace(asked_by, text=text, remedy="flatten some of them")))


def without(tree: Tree, key: str) -> Tree:
    """A mapping without one of its keys."""
    assert isinstance(tree.value, Mapping)
    return Tree({name: entry for name, entry in tree.value.items() if name != key}, tree.place)


def merge(base: Tree, over: Tree) -> Tree:
    """`over` laid on `base`: mappings merge key by key, everything else (lists and choices too) replaces."""
    if not (isinstance(base.value, Mapping) and isinstance(over.value, Mapping)) or is_choice(base) or is_choice(over):
        return over
    entries = dict(base.value)
    for key, entry in over.value.items():
        old = entries.get(key)
        entries[key] = Entry(entry.key, merge(old.tree, entry.tree)) if old else entry
    return Tree(entries, over.place)


def overridden(tree: Tree, overrides: Sequence[str]) -> Tree:
    """`tree` with overrides applied in their order."""
    for override in overrides:
        tree = override_tree(tree, override)
    return tree


def override_tree(tree: Tree, override: str) -> Tree:
    """`tree` with `a.b.0=value` applied; the value is YAML, list items go by index, new keys by their full path.

    A key that does not exist yet is added, so that it can be told to be unknown by the same rules as in a file.
    """
    place = Place(f"--set {override:.{MAX_OVERRIDE}}{'...' * (len(override) > MAX_OVERRIDE)}")
    target, equals, text = override.partition("=")
    steps = tuple(step.strip() for step in target.split("."))
    if len(steps) > MAX_DEPTH:
        raise SpecError(f"{place}: a path of {len(steps)} parts; a spec has values at most {MAX_DEPTH} deep")
    if not equals or not all(steps):
        raise SpecError(f"{place}: expected PATH=VALUE; for example --set data.batch_size=64")
    if steps[0] == "extends":
        raise SpecError(f"{place}: `extends` is read before overrides; write it in a file")
    try:
        value = parse(text, place.file) or Tree(None, place)
    except SpecError as error:
        line = str(error).splitlines()[0].removeprefix(printable(f"{place}:"))
        raise SpecError(f"{place}: the value{_after_column(line)}") from None
    return _assigned(tree, steps, (), _moved(value, place), place)


def _after_column(line: str) -> str:
    """Drop the `line:column` of a one-line value, which says nothing a reader could not see."""
    return line[line.index(": ") :] if ": " in line else f": {line}"


def _moved(tree: Tree, place: Place) -> Tree:
    if isinstance(tree.value, Mapping):
        return Tree({key: Entry(place, _moved(entry.tree, place)) for key, entry in tree.value.items()}, place)
    if isinstance(tree.value, tuple):
        return Tree(tuple(_moved(item, place) for item in tree.value), place)
    return Tree(tree.value, place)


def _assigned(tree: Tree, steps: tuple[str, ...], done: Path, value: Tree, place: Place) -> Tree:
    """`tree` with `value` put under `steps`; `done` is the path walked so far."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if done and (tree.value is None or (step == "choose" and not is_choice(tree))):
        tree = Tree({}, place)  # `choose` makes a choice of whatever stood there
    if is_choice(tree) and step not in CHOICE_KEYS:
        text = f"{dotted(done)} is a choice, it has no {step!r}"
        raise SpecError(f"{place}: {text}; fix it as a whole (--set '{dotted(done)}=...') or change its `choose`")
    if isinstance(tree.value, Mapping):
        old = tree.value.get(step)
        inner = _assigned(old.tree if old else Tree({}, place), rest, (*done, step), value, place)
        return Tree({**tree.value, step: Entry(old.key if old and rest else place, inner)}, tree.place)
    if isinstance(tree.value, tuple):
        index = int(step) if step.isdecimal() and len(step) <= len(str(len(tree.value))) else len(tree.value)
        if index >= len(tree.value):
            held = f"has items 0 to {len(tree.value) - 1}" if tree.value else "is an empty list"
            raise SpecError(f"{place}: {dotted(done)} {held}, not {step!r:.60}; address a list item by its index")
        items = list(tree.value)
        items[index] = _assigned(items[index], rest, (*done, index), value, place)
        return Tree(tuple(items), tree.place)
    whole = f"--set '{dotted(done)}={{{step}: ...}}'"
    raise SpecError(
        f"{place}: {dotted(done)} is the value {tree.value!r:.40}, it has no {step!r}; replace it as a whole: {whole}"
    )
