"""Options of passes and policies: a frozen dataclass whose fields are the options, checked by their annotations."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from nasir.errors import NasirError, SpecError, UnknownName
from nasir.policy.base import PhasePlan, Policy
from nasir.registry import Registry, passes, policies
from nasir.spec.problems import Path, Place, Problem, suggestion
from nasir.spec.translate import shown

Fault = tuple[Path, str, str]
"""Path below the options, what is wrong, remedy."""


@cache
def options_of(made: type) -> Mapping[str, tuple[Any, dataclasses.Field[Any]]]:
    """Annotation and field of each option, in order; raises TypeError if `made` is not a dataclass."""
    try:
        hints = get_type_hints(made, include_extras=True)
    except NameError:  # a name imported for type checkers only: such options are left to the pass itself
        hints = {}
    return types.MappingProxyType({f.name: (hints.get(f.name, Any), f) for f in dataclasses.fields(made) if f.init})


def required(item: dataclasses.Field[Any]) -> bool:
    """True for an option without a default."""
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def make_pass(name: str, options: Mapping[str, Any]) -> Any:
    """The pass `name` with JSON options; raises UnknownName, or SpecError naming each wrong option."""
    return with_options(passes.get(name), options, f"pass {name}")


def make_policy(plan: PhasePlan, seed: int) -> Policy:
    """The policy of a phase; raises UnknownName, or SpecError naming each wrong option."""
    made = policies.get(plan.policy)
    kind = policy_options(made)
    options = with_options(kind, plan.policy_options, f"policy {plan.policy}")
    policy: Policy = made(plan, seed) if kind is NoOptions else made(plan, seed, options)
    return policy


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """The options of a policy that has none."""


def policy_options(made: Any) -> type:
    """The dataclass of the options of a registered policy."""
    kind: type = getattr(made, "Options", NoOptions)
    return kind


def with_options(made: type, options: Mapping[str, Any], what: str) -> Any:
    """The dataclass `made` with JSON options; raises SpecError about `what`, such as "pass widen", for wrong ones."""
    faults = option_faults(made, options, what.partition(" ")[0])
    if faults:
        lines = [Problem(Place(what), path, text, remedy) for path, text, remedy in faults]
        raise SpecError("\n".join(map(str, lines)))
    return made(**_converted(made, options))


def option_faults(made: type, options: Mapping[str, Any], kind: str = "pass") -> list[Fault]:
    """All that is wrong with the options of a pass (or another kind of thing); what its own checks refuse only if the
    types are right."""
    if not dataclasses.is_dataclass(made):
        whose = "the pass" if kind == "pass" else f"the options of the {kind}"
        return [((), f"{made.__qualname__} is not a dataclass", f"write @dataclass(frozen=True) above {whose}")]
    known = options_of(made)
    faults: list[Fault] = []
    for key, value in options.items():
        if key in known:
            faults += [((key, *path), text, remedy) for path, text, remedy in _faults(value, known[key][0])]
        else:
            remedy = suggestion(key, known) if known else f"this {kind} takes none"
            faults.append(((key,), "unknown option", remedy))
    for key, (_, item) in known.items():
        if key not in options and required(item):
            faults.append(((key,), "this option is required", f"add `{key}: ...`"))
    if faults:
        return faults
    try:
        made(**_converted(made, options))
    except Exception as error:  # the checks of a pass are its author's; what they raise is about the options
        path = next(((key,) for key in options if key in str(error)), ())
        text = str(error) if isinstance(error, ValueError | NasirError) else f"{type(error).__name__}: {error}"
        return [(path, text, "" if "; " in text else f"see the options of the {kind}")]
    return []


def _converted(made: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as the dataclass wants them: JSON lists become tuples where tuples are annotated."""
    known = options_of(made)
    return {key: _convert(value, known[key][0]) for key, value in options.items()}


def _convert(value: Any, annotation: Any) -> Any:
    if not isinstance(value, list):
        return value
    for plain in alternatives(annotation):
        if get_origin(plain) is tuple or plain is tuple:
            items = get_args(plain)
            return tuple(_convert(item, _item_type(items, index)) for index, item in enumerate(value))
    return value


def _item_type(items: tuple[Any, ...], index: int) -> Any:
    if not items:
        return Any
    return items[0] if len(items) == 2 and items[1] is Ellipsis else items[min(index, len(items) - 1)]


def alternatives(annotation: Any) -> list[Any]:
    """The members of a union, without `Annotated`, `type` aliases and NewTypes."""
    if hasattr(annotation, "__value__"):  # `type X = ...` of Python 3.12, which 3.11 cannot import the class of
        return alternatives(annotation.__value__)
    if get_origin(annotation) is Annotated:
        return alternatives(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        return [plain for member in get_args(annotation) for plain in alternatives(member)]
    return [getattr(annotation, "__supertype__", annotation)]


def _faults(value: Any, annotation: Any) -> list[Fault]:
    """Why a JSON value does not fit an annotation; empty if it fits, or if the annotation is not a JSON type."""
    collected: list[list[Fault]] = []
    for plain in (members := alternatives(annotation)):
        faults = _fits(value, plain)
        if not faults:
            return []
        collected.append(faults)
    inside = [faults for faults in collected if faults[0][0]]
    if inside:
        return inside[0]
    if len(collected) == 1:
        return collected[0]
    choices = [choice for plain in members if get_origin(plain) is Literal for choice in get_args(plain)]
    expected = " or ".join(dict.fromkeys(_name(plain) for plain in members))
    remedy = suggestion(str(value), map(str, choices)) if choices and isinstance(value, str) else f"write {expected}"
    return [((), f"expected {expected}, found {shown(value)}", remedy)]


_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", type(None): "nothing"}


def _name(plain: Any) -> str:
    if get_origin(plain) is Literal:
        choices = ", ".join(map(str, get_args(plain)))
        return f"one of {choices}" if len(get_args(plain)) > 1 else f"the word {choices}"
    origin = get_origin(plain) or plain
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return "a mapping"
    return _NAMES.get(plain, "a list")


def _fits(value: Any, plain: Any) -> list[Fault]:
    wrong: list[Fault] = [((), f"expected {_name(plain)}, found {shown(value)}", f"write {_name(plain)}")]
    if get_origin(plain) is Literal:
        choices = get_args(plain)
        if any(value == choice and type(value) is type(choice) for choice in choices):
            return []
        return [
            (
                (),
                f"unknown value {value!r:.60}" if isinstance(value, str) else wrong[0][1],
                suggestion(str(value), map(str, choices)),
            )
        ]
    if plain is bool or plain is str:
        return [] if isinstance(value, plain) else wrong
    if plain is type(None):
        return [] if value is None else wrong
    if plain is int or plain is float:
        kinds = (int,) if plain is int else (int, float)
        fine = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        return [] if fine else wrong
    origin = get_origin(plain) or plain
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _entries(value, get_args(plain)) if isinstance(value, Mapping) else wrong
    if isinstance(origin, type) and issubclass(origin, Sequence | frozenset | set):
        return _items(value, get_args(plain), origin is tuple) if isinstance(value, list | tuple) else wrong
    return []


def _entries(value: Mapping[str, Any], arguments: tuple[Any, ...]) -> list[Fault]:
    inner = arguments[1] if len(arguments) == 2 else Any
    return [((key, *p), text, cure) for key, item in value.items() for p, text, cure in _faults(item, inner)]


def _items(value: Sequence[Any], arguments: tuple[Any, ...], is_tuple: bool) -> list[Fault]:
    fixed = is_tuple and arguments and arguments[-1] is not Ellipsis
    if fixed and len(value) != len(arguments):
        return [((), f"expected {len(arguments)} items, found {len(value)}", f"give {len(arguments)}")]
    return [
        ((index, *path), text, remedy)
        for index, item in enumerate(value)
        for path, text, remedy in _faults(item, _item_type(arguments, index))
    ]


def find(registry: Registry, name: str) -> Any | None:
    """What is registered as `name`, None if nothing is; raises NasirError where it is broken."""
    try:
        return registry.get(name)
    except UnknownName:
        return None
