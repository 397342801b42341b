"""Rules of others: how plugins tell nasir which of its ops a function or a module is."""

from __future__ import annotations

from collections.abc import Callable

from nasir.errors import NasirError, UsageError
from nasir.importing.rules.place import RULES, Place, Rule, Typed, rule_of
from nasir.ir import ValueType

LEAVES: set[str] = set()
"""Names that rules of others are for: modules of such a class are recorded as one call, whatever they do inside."""


def rule(*operations: str | type) -> Callable[[Rule], Rule]:
    """Register `function(place, x, type)`, which says what op of nasir a call is (`Typed`), or None where it is none.

    `operations`: functions of torch by name ("torch.nn.functional.mish"), and classes of modules, also by name
    ("package.module.Class"); `*` stands for any letters. `place`: the call with its operands and attributes, types of
    values, and names of the module's weights; `x`: number of the first operand, a tensor; `type`: its `ValueType`.

    It is asked before the rules that ship with nasir, the newest first; where it gives None, they are asked. An op has
    to have the weights of the module, by their names. Whoever imports a module compares what the network gives with
    what the module does, so that a rule which is wrong is told.
    """
    names = [name if isinstance(name, str) else f"{name.__module__}.{name.__qualname__}" for name in operations]
    if not names or not all(names):
        raise UsageError("rule: name what it is for, such as rule('torch.nn.functional.mish')")

    def add(function: Rule) -> Rule:
        for name in names:
            RULES[name] = _before(function, rule_of(name))
            LEAVES.add(name)
        return function

    return add


def _before(function: Rule, others: Rule | None) -> Rule:
    told = f"the rule {getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"

    def asked(place: Place, x: int, value: ValueType) -> Typed | None:
        try:
            made = function(place, x, value)
        except NasirError:
            raise
        except Exception as error:  # the code of its author
            raise NasirError(f"{place.call.place}: {told} failed: {type(error).__name__}: {error}; mend it") from error
        if made is not None and not isinstance(made, Typed):
            raise NasirError(f"{place.call.place}: {told} gives a {type(made).__name__}; let it give Typed or None")
        return made if made is not None or others is None else others(place, x, value)

    return asked
