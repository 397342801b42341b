"""What every option owes: it refuses values that its annotation does not allow, from Python and from a spec alike."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from nasir.errors import NasirError, SpecError
from nasir.options import Option, sentence
from nasir.options.kinds import Choice, Items, Kind, Number, Record, Scalar, Table
from nasir.spec import loads_spec
from nasir.spec.network import build

FOREIGN = "no_such_word"  # nothing that nasir ships has such a choice

HEAD = {"nasir": 1, "name": "law", "input": {"image": [3, 8, 8]}, "data": {"dataset": "synthetic", "validation": 0.5}}
NETWORK = [{"stage": {"name": "s1", "block": "basic", "out": 4, "depth": 1}}, {"classifier": {"classes": 2}}]
GROW = {"name": "grow", "optimizer": {"sgd": {"lr": 0.1}}, "epochs": 2}


def breaches(kind: Kind) -> Iterator[Any]:
    """Values that a kind must refuse, each a foreign word, of a wrong type, not finite, or outside of a range."""
    members = list(kind.members())
    if any(type(member) is Kind for member in members):  # it takes anything
        return
    plain = {member.plain for member in members if isinstance(member, Scalar | Number)}
    if str not in plain:
        yield FOREIGN
    if not plain & {int, float}:
        yield from (value for value in (3, 0.5) if not any(_chosen(member, value) for member in members))
    elif float not in plain:
        yield 0.5
    yield from (math.nan, math.inf, -math.inf)
    if bool not in plain and not any(_chosen(member, True) for member in members):
        yield True
    if type(None) not in plain:
        yield None
    if not any(isinstance(member, Table | Record) for member in members):
        yield {FOREIGN: FOREIGN}
    lists = [member for member in members if isinstance(member, Items)]
    if not lists:
        yield [FOREIGN]
    for member in lists:
        if len(lists) == 1 and not member.fixed:
            yield from ([value] for value in breaches(member.of(0)) if not isinstance(value, list))
        if len(lists) == 1 and member.fixed:
            yield [0] * (len(member.each) + 1)
    yield from _outside([member for member in members if isinstance(member, Number)])


def _chosen(member: Kind, value: Any) -> bool:
    return isinstance(member, Choice) and any(type(one) is type(value) and one == value for one in member.choices)


def _outside(numbers: list[Number]) -> Iterator[int | float]:
    """Just beyond each bound of a union's only number."""
    for number in numbers if len(numbers) == 1 else ():
        step = 1 if number.plain is int else 1e-3
        for bound, limit in number.bounds:
            off = {"gt": 0, "ge": -step, "lt": 0, "le": step, "multiple_of": step}[bound]
            yield number.plain(limit + off)


def check_options(
    options: Mapping[str, Option],
    make: Callable[[Mapping[str, Any]], object],
    from_spec: Callable[[Mapping[str, Any]], object],
    called: str,
    given: Mapping[str, Any] | None = None,
) -> None:
    """Assert that `make` (in Python) and `from_spec` (through a spec) refuse every breach, with one sentence.

    `given`: options that are right, of which one at a time is replaced; `called`: how errors call the thing.
    """
    right = dict(given or {})
    for name, option in options.items():
        if not option.required:
            made, faults = option.kind.normal(option.default)
            assert not faults and made == option.default, f"{called}: the default of {name} breaks its annotation"
        for value in breaches(option.kind):
            told = _refusal(lambda: make({**right, name: value}), f"{called}: {name}={value!r}")
            [line] = [line for line in told.splitlines() if f": {name}" in line]
            text = line.split(f": {name}", 1)[1]
            written = _refusal(lambda: from_spec({**right, name: value}), f"{called}: {name}: {value!r} in a spec")
            if not _finite(value):  # a spec cannot hold such a number at all
                assert "not a finite number" in written, written
            else:
                assert f"{name}{text}" in written, f"{called}: Python says {line!r}, a spec {written!r}"
    unknown = {**right, FOREIGN: 1}
    told = _refusal(lambda: make(unknown), f"{called}: an option that it does not have")
    assert sentence(called, (FOREIGN,), "unknown option", "").rstrip() in told, told


def _finite(value: Any) -> bool:
    return all(map(_finite, value)) if isinstance(value, list) else not isinstance(value, float) or math.isfinite(value)


def _refusal(action: Callable[[], object], what: str) -> str:
    """What a NasirError says; an AssertionError if nothing is raised, or something else."""
    try:
        action()
    except NasirError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} instead of a NasirError: {error}") from error
    raise AssertionError(f"{what} is taken")


def spec_with(**changes: Any) -> str:
    """A small spec as YAML, with changes of its top level."""
    return yaml.safe_dump({**HEAD, "network": NETWORK, "phases": [GROW], **changes}, sort_keys=False)


def load_rule(name: str, options: Mapping[str, Any]) -> None:
    """Load a spec one of whose rules has the pass `name` with these options; raises SpecError."""
    rule = {"every": 1, "do": {name: json_like(options)}}
    loads_spec(spec_with(phases=[{**GROW, "rules": [rule]}]), "law.yaml")


def load_policy(name: str, options: Mapping[str, Any]) -> None:
    """Load a spec whose phase has the policy `name` with these options; raises SpecError."""
    rule = {"do": {"insert-block": {}}}
    loads_spec(spec_with(phases=[{**GROW, "policy": {name: json_like(options)}, "rules": [rule]}]), "law.yaml")


def build_step(name: str, options: Mapping[str, Any]) -> None:
    """Build the network of a spec that has the step `name`, an op or a block, with these options; raises SpecError."""
    build(loads_spec(spec_with(network=[{name: json_like(options)}, {"classifier": {"classes": 2}}]), "law.yaml"))


def json_like(value: Any) -> Any:
    """Plain lists, mappings and scalars, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: json_like(item) for key, item in value.items()}
    return [json_like(item) for item in value] if isinstance(value, list | tuple) else value
