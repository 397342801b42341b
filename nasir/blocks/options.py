"""Options of steps and blocks: the keyword parameters of a function, checked by their annotations."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from nasir.errors import TypeRuleError
from nasir.ir import JSON
from nasir.ir.regions import closest

_WORD = re.compile(r"(in|out|stride)(?:\s*([*/])\s*([1-9][0-9]*))?")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}


def words_resolved(value: JSON, words: Mapping[str, int], place: str) -> JSON:
    """`value` with in, out, stride, `out/4` and `out*2` as whole numbers; raises TypeRuleError for a fraction."""
    if isinstance(value, Mapping):
        return {key: words_resolved(item, words, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [words_resolved(item, words, place) for item in value]
    found = _WORD.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return value
    word, sign, number = found[1], found[2], int(found[3] or 1)
    if sign == "/" and words[word] % number:
        raise TypeRuleError(f"{place}: {value} is no whole number, {word} is {words[word]}; choose a multiple")
    return words[word] // number if sign == "/" else words[word] * number


def checked(function: Callable[..., Any], options: Mapping[str, JSON], place: str, skip: int = 2) -> dict[str, JSON]:
    """`options` as keyword arguments of `function`, whose first `skip` parameters are not options.

    Raises TypeRuleError for unknown, missing and wrongly typed options; `place` begins its message.
    """
    known, catch_all = parameters(function, skip)
    for name, value in options.items():
        if name not in known:
            if catch_all:
                continue
            hint = closest(name, known) if known else "it takes none"
            raise TypeRuleError(f"{place}: unknown option {name!r}; {hint}")
        _check_type(value, known[name][0], f"{place}: option {name!r}")
    for name, (_, required) in known.items():
        if required and name not in options:
            raise TypeRuleError(f"{place}: option {name!r} is missing; give it a value")
    return dict(options)


@cache
def parameters(function: Callable[..., Any], skip: int = 2) -> tuple[dict[str, tuple[Any, bool]], bool]:
    """({option: (annotation, required)}, whether it takes any other option)."""
    try:
        hints = get_type_hints(function)
    except NameError:  # names imported for type checkers only: such options go unchecked
        hints = {}
    found: dict[str, tuple[Any, bool]] = {}
    catch_all = False
    for parameter in list(inspect.signature(function).parameters.values())[skip:]:
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            catch_all = True
        else:
            required = parameter.default is inspect.Parameter.empty
            found[parameter.name] = (hints.get(parameter.name, Any), required)
    return found, catch_all


def _check_type(value: JSON, annotation: Any, place: str) -> None:
    wanted = get_args(annotation) if get_origin(annotation) not in (None, Literal) else (annotation,)
    if any(_fits(value, one) for one in wanted):
        return
    choices = [choice for one in wanted if get_origin(one) is Literal for choice in get_args(one)]
    names = [_NAMES[one] for one in wanted if one in _NAMES] + [repr(choice) for choice in choices]
    hint = f"; {closest(value, map(str, choices))}" if choices and isinstance(value, str) else ""
    raise TypeRuleError(f"{place} must be {' or '.join(names)}, not {value!r}{hint}")


def _fits(value: JSON, wanted: Any) -> bool:
    if get_origin(wanted) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(wanted))
    if wanted is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if wanted in _NAMES:
        return type(value) is wanted
    return True  # no JSON scalar: left to the function
