"""Options of steps and blocks: the keyword parameters of a function, checked by their annotations."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from nasir.errors import TypeRuleError
from nasir.ir import JSON
from nasir.options import checked as fitted
from nasir.options import parameters_of, sentence

_WORD = re.compile(r"(in|out|stride)(?:\s*([*/])\s*([1-9][0-9]*))?")


def words_resolved(value: JSON, words: Mapping[str, int], place: str) -> JSON:
    """`value` with in, out, stride, `out/4` and `out*2` as whole numbers; raises TypeRuleError for a fraction."""
    if isinstance(value, Mapping):
        return {key: words_resolved(item, words, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [words_resolved(item, words, place) for item in value]
    match = _WORD.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    word, sign, number = match[1], match[2], int(match[3] or 1)
    if sign == "/" and words[word] % number:
        raise TypeRuleError(f"{place}: {value} is no whole number, {word} is {words[word]}; choose a multiple")
    return words[word] // number if sign == "/" else words[word] * number


def checked(function: Callable[..., Any], options: Mapping[str, JSON], place: str, skip: int = 2) -> dict[str, JSON]:
    """`options` as keyword arguments of `function`, whose first `skip` parameters are not options.

    Raises TypeRuleError for unknown, missing and wrong options; `place` begins its message. UsageError for annotations
    that cannot be resolved.
    """
    known, open_ended = parameters_of(function, skip)
    made, faults = fitted(known, options, "block", open_ended)
    if faults:
        raise TypeRuleError(sentence(place, *faults[0]))
    return made
