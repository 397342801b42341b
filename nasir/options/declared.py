"""The options that a dataclass or a function declares, and values checked against them."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn, TypeVar, get_type_hints

from annotated_types import DocInfo

from nasir.errors import NasirError, OptionError, UsageError
from nasir.options.annotations import read_kind
from nasir.options.kinds import Dataclass, Kind
from nasir.options.words import MISSING_OPTION, UNKNOWN_OPTION, Fault, Path, sentence, suggestion

NONE = object()
T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One option: what it may be, and the value it has where none is given (`default` is NONE: it must be given)."""

    name: str
    kind: Kind
    default: Any = NONE
    about: str = ""  # what `doc` of annotated_types says in its annotation

    @property
    def required(self) -> bool:
        """Whether it has no default."""
        return self.default is NONE

    @property
    def optional(self) -> Option:
        """The same option with a default, where something else supplies the value."""
        return dataclasses.replace(self, default=None) if self.required else self


def options_of(made: type) -> Mapping[str, Option]:
    """The options of a dataclass, its fields, by name and in order.

    Raises TypeError if it is no dataclass, UsageError where an annotation cannot be resolved or contradicts itself.
    """
    return _fields(made)


@cache
def _fields(made: Any) -> Mapping[str, Option]:
    items = {item.name: item for item in dataclasses.fields(made) if item.init}
    try:
        hints = get_type_hints(made, include_extras=True)
    except Exception:  # one of its annotations, of an option or not
        scope = vars(sys.modules[made.__module__]) if made.__module__ in sys.modules else {}
        hints = _resolved(made, {name: item.type for name, item in items.items()}, scope)
    options = {}
    for name, item in items.items():
        default = item.default
        if item.default_factory is not dataclasses.MISSING:
            default = item.default_factory()
        options[name] = _option(made, name, hints[name], NONE if default is dataclasses.MISSING else default)
    return types.MappingProxyType(options)


@cache
def parameters_of(function: Callable[..., Any], skip: int = 2) -> tuple[Mapping[str, Option], bool]:
    """The parameters of a function after the first `skip` ones, and whether it takes any other by name.

    Raises UsageError where an annotation cannot be resolved or contradicts itself.
    """
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    named = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.VAR_KEYWORD]
    return declared(function, named), len(named) < len(parameters)


def declared(function: Callable[..., Any], parameters: Iterable[inspect.Parameter]) -> Mapping[str, Option]:
    """Some parameters of a function as options; raises UsageError as `parameters_of`."""
    empty = inspect.Parameter.empty
    written = {
        parameter.name: Any if parameter.annotation is empty else parameter.annotation for parameter in parameters
    }
    defaults = {parameter.name: NONE if parameter.default is empty else parameter.default for parameter in parameters}
    plain = inspect.unwrap(function)
    hints = _resolved(plain, written, getattr(plain, "__globals__", {}))
    return types.MappingProxyType({name: _option(function, name, hints[name], defaults[name]) for name in written})


def _resolved(owner: Any, written: Mapping[str, Any], scope: Mapping[str, Any]) -> dict[str, Any]:
    """Annotations that may be text, as objects; UsageError names the option whose annotation cannot be found."""
    hints = {}
    for name, annotation in written.items():

        def probe() -> None: ...

        probe.__annotations__ = {name: annotation}
        try:
            hints[name] = get_type_hints(probe, globalns=dict(scope), include_extras=True)[name]
        except Exception as error:  # evaluating an annotation may raise anything
            raise UsageError(
                f"{_named(owner)}: the annotation {annotation!r} of {name!r} cannot be resolved ({error}); "
                "import what it names when the module runs, outside of `if TYPE_CHECKING:` and of functions"
            ) from error
    return hints


def kind_of(annotation: Any) -> Kind:
    """The kind of an annotation; one that is not a JSON type takes anything.

    Raises UsageError for bounds that do not belong to the type, or that nothing here knows.
    """
    return read_kind(annotation, lambda made: Dataclass(made, built, record_schema))


def _option(owner: Any, name: str, annotation: Any, default: Any) -> Option:
    try:
        notes = [note.documentation for note in getattr(annotation, "__metadata__", ()) if isinstance(note, DocInfo)]
        return Option(name, kind_of(annotation), default, notes[-1] if notes else "")
    except UsageError as error:
        raise UsageError(f"{_named(owner)}: {name}: {error}") from error


def _named(owner: Any) -> str:
    return f"{getattr(owner, '__module__', '?')}.{getattr(owner, '__qualname__', repr(owner))}"


def described(option: Option) -> dict[str, Any]:
    """What an option may be, as JSON Schema, and its `default`, or that it is `required`."""
    schema = {**option.kind.schema(), **({"description": option.about} if option.about else {})}
    if option.required:
        return {**schema, "required": True}
    value = list(option.default) if isinstance(option.default, tuple) else option.default
    plain = value is None or isinstance(value, bool | str | int | float | list | dict)
    return {**schema, "default": value} if plain else schema


def checked(
    options: Mapping[str, Option], given: Mapping[str, Any], thing: str = "", open_ended: bool = False
) -> tuple[dict[str, Any], list[Fault]]:
    """The given values in their normal form, and every fault: unknown, unfitting and missing ones.

    `thing` is what has the options, such as "pass"; `open_ended`: it takes unknown ones, as they are.
    """
    made: dict[str, Any] = {}
    faults: list[Fault] = []
    for name, value in given.items():
        if name in options:
            made[name], inner_faults = options[name].kind.normal(value)
            faults += [((name, *path), text, remedy) for path, text, remedy in inner_faults]
        elif open_ended:
            made[name] = value
        else:
            remedy = suggestion(name, options) if options else f"this {thing} takes none"
            faults.append(((name,), UNKNOWN_OPTION, remedy))
    for name, option in options.items():
        if option.required and name not in given:
            faults.append(((name,), MISSING_OPTION, f"add `{name}: ...`"))
    return made, faults


def own_fault(error: Exception, given: Mapping[str, Any], thing: str) -> Fault:
    """What a dataclass itself raised about its options, at the one that the text begins with, as `name: ...`, else at
    the first of them that it names."""
    told = str(error)
    named = [name for name in given if told.startswith(f"{name}: ")]
    named = named or [name for name in given if re.search(rf"\b{re.escape(name)}\b", told)]
    path: Path = tuple(named[:1])
    text = str(error) if isinstance(error, ValueError | NasirError) else f"{type(error).__name__}: {error}"
    text = text.removeprefix(f"{path[0]}: ") if path else text
    text, _, remedy = text.partition("; ")
    return path, text, remedy or f"see the options of the {thing}"


def raise_faults(what: str, faults: Sequence[Fault], cause: Exception | None = None) -> NoReturn:
    """Raise an OptionError about `what`, such as "pass widen", with a line for each fault."""
    raise OptionError("\n".join(sentence(what, *fault) for fault in faults), faults) from cause


def construct(made: type[T], given: Mapping[str, Any], what: str) -> T:
    """The dataclass `made` with options, also one that does not check itself; raises OptionError about `what`."""
    thing = what.partition(" ")[0]
    try:
        if not getattr(made, "checks_itself", False):
            given, faults = checked(options_of(made), given, thing)
            if faults:
                raise_faults(what, faults)
        return made(**given)
    except OptionError:
        raise
    except Exception as error:  # a plugin's own checks may raise anything; it is about the options
        raise_faults(what, [own_fault(error, given, thing)], error)


def built(made: type, given: Mapping[str, Any]) -> tuple[Any, list[Fault]]:
    """The dataclass `made` with options, and everything that is wrong with them."""
    try:
        return construct(made, given, made.__name__), []
    except OptionError as error:
        return given, list(error.faults)


def record_schema(made: type) -> dict[str, Any]:
    """JSON Schema of the options of a dataclass."""
    return schema_of(options_of(made))


def schema_of(options: Mapping[str, Option]) -> dict[str, Any]:
    """JSON Schema of a mapping of options."""
    properties = {name: described(option) for name, option in options.items()}
    needed = [name for name, property_schema in properties.items() if property_schema.pop("required", False)]
    schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**schema, "required": needed} if needed else schema
