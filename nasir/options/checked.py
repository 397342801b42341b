"""Dataclasses whose fields are options: checked and normalized whenever one is made, from a spec or from Python."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from nasir.errors import NasirError, OptionError
from nasir.options.declared import checked, options_of, own_fault, raise_faults

T = TypeVar("T")


class Checked:
    """Base of a frozen dataclass whose fields are options.

    Making one raises OptionError for options that are unknown, missing or do not fit their annotations; values are in
    their normal form before `__post_init__` sees them (a list where a tuple is annotated is a tuple). `__post_init__`
    is for rules between fields: a ValueError or NasirError that it raises becomes an OptionError too.
    """

    __slots__ = ()
    checks_itself = True

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        # @dataclass writes __init__ after the class was made, so that no hook of the class body can wrap it earlier
        if dataclasses.is_dataclass(cls) and not hasattr(cls.__init__, "checks_options"):
            _guard(cls)
        return super().__new__(cls)

    @classmethod
    def called(cls, given: Mapping[str, Any]) -> str:
        """What an error calls it, such as "pass widen"; `given` are the options as they were given."""
        return cls.__name__


def _guard(made: type[Checked]) -> None:
    """Let `__init__` check the options first."""
    owner = next(base for base in made.__mro__ if "__init__" in vars(base))
    original = owner.__init__  # type: ignore[misc]
    parameters = dict(list(inspect.signature(original).parameters.items())[1:])

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        named = dict(zip(parameters, args, strict=False))
        if len(args) > len(parameters) or named.keys() & kwargs.keys():
            original(self, *args, **kwargs)  # Python itself refuses these arguments
        given = {**named, **kwargs}
        options = {
            name: option if parameters[name].default is inspect.Parameter.empty else option.optional
            for name, option in options_of(type(self)).items()
            if name in parameters
        }
        # InitVars, and further parameters of an __init__ written by hand, are left to it
        more = {name: value for name, value in given.items() if name in parameters and name not in options}
        called = self.called(given)
        thing = called.partition(" ")[0]
        normal, faults = checked(options, {name: given[name] for name in given if name not in more}, thing)
        if faults:
            raise_faults(called, faults)
        try:
            original(self, **more, **normal)
        except (ValueError, NasirError) as error:
            told = error.faults if isinstance(error, OptionError) else ()  # these faults have their places already
            raise_faults(called, told or [own_fault(error, given, thing)], error)

    init.checks_options = True  # type: ignore[attr-defined]
    owner.__init__ = init  # type: ignore[misc]
