"""What every option owes: it refuses values that its annotation does not allow, from Python and from a spec alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import yaml

from nasir.errors import NasirError
from nasir.options import Option
from nasir.options.kinds import Choice, Dataclass, Items, Kind, Number, Scalar, Table
from nasir.spec import Spec
from nasir.spec.load import merge, parse_mapping
from nasir.spec.network import build
from nasir.spec.passes import option_faults
from nasir.spec.problems import Place, Problem, raise_problems
from nasir.spec.read import checked
from nasir.spec.tree import Tree

FILE = "law.yaml"
FOREIGN = "no_such_word"  # nothing that nasir ships has such a choice

HEAD = {"nasir": 1, "name": "law", "input": {"image": [3, 8, 8]}, "data": {"dataset": "synthetic", "validation": 0.5}}
LAST = {"classifier": {"classes": 2}}
NETWORK = [{"stage": {"name": "s1", "block": "basic", "out": 4, "depth": 1}}, LAST]
GROW = {"name": "grow", "optimizer": {"sgd": {"lr": 0.1}}, "epochs": 2}
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # some hundred specs are written for each set of options


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
    if not any(isinstance(member, Table | Dataclass) for member in members):
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
    return isinstance(member, Choice) and any(type(item) is type(value) and item == value for item in member.choices)


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
    from_spec: Callable[[Mapping[str, Any]], object] | None,
    given: Mapping[str, Any],
) -> None:
    """Assert that `make` (in Python) and `from_spec` (through a spec) refuse every breach, with one sentence.

    `given`: options that are right, of which one at a time is replaced. `from_spec` None: no spec can hold them.
    """
    for name, option in options.items():
        if not option.required:
            _, faults = option.kind.normal(option.default)
            assert not faults, f"the default {option.default!r} of {name} breaks its annotation: {faults}"
        for value in breaches(option.kind):
            wrong = {**given, name: value}
            told = _refusal(make, wrong, f"{name}={value!r} in Python")
            assert f": {name}" in told, f"{name}={value!r}: the option is not named: {told}"
            if from_spec is None:
                continue
            said = _refusal(from_spec, wrong, f"{name}: {value!r} in a spec")
            line = name + told.splitlines()[0].split(f": {name}", 1)[1]
            # a spec cannot hold a number that is not finite at all
            assert line in said if _finite(value) else "is not a finite number" in said, f"{told!r} against {said!r}"
    told = _refusal(make, {**given, FOREIGN: 1}, "an option that it does not have")
    assert f"{FOREIGN}: unknown option; " in told, told


def _finite(value: Any) -> bool:
    return all(map(_finite, value)) if isinstance(value, list) else not isinstance(value, float) or math.isfinite(value)


def _refusal(action: Callable[[Mapping[str, Any]], object], options: Mapping[str, Any], what: str) -> str:
    """What a NasirError says about options; an AssertionError if nothing is raised, or something else."""
    try:
        action(options)
    except NasirError as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} instead of a NasirError: {error}") from error
    raise AssertionError(f"{what} is taken")


def spec_with(**changes: Any) -> Spec:
    """A small spec with changes of its top level, which are written and read as YAML."""
    return checked(merge(_small(), _read(changes)), FILE)


@cache
def _small() -> Tree:
    return _read({**HEAD, "network": NETWORK, "phases": [GROW]})


def _read(data: Mapping[str, Any]) -> Tree:
    return parse_mapping(yaml.dump(data, Dumper=DUMPER, sort_keys=False), FILE)


def in_rule(name: str) -> Callable[[Mapping[str, Any]], object]:
    """Loads a spec one of whose rules has the pass `name`, with options."""
    return lambda options: spec_with(phases=[{**GROW, "rules": [{"every": 1, "do": {name: json_like(options)}}]}])


def in_phase(name: str) -> Callable[[Mapping[str, Any]], object]:
    """Loads a spec whose phase has the policy `name`, with options."""
    rules: list[dict[str, Any]] = [{"do": {"insert-block": {}}}]
    return lambda options: spec_with(phases=[{**GROW, "policy": {name: json_like(options)}, "rules": rules}])


def in_optimizer(name: str) -> Callable[[Mapping[str, Any]], object]:
    """Loads a spec whose phase trains with the optimizer `name`, with options."""
    return lambda options: spec_with(phases=[{**GROW, "optimizer": {name: json_like(options)}}])


def in_terms(name: str) -> Callable[[Mapping[str, Any]], object]:
    """Loads a spec whose phase has the penalty `name`, with options."""
    return lambda options: spec_with(phases=[{**GROW, "regularize": [{name: json_like(options)}]}])


def in_network(name: str) -> Callable[[Mapping[str, Any]], object]:
    """Builds the network of a spec that has the block `name` as a step, with options."""
    return lambda options: build(spec_with(network=[{name: json_like(options)}, LAST]))


def in_block(name: str) -> Callable[[Mapping[str, Any]], object]:
    """Builds the network of a spec that defines a block of the op `name`, with attributes."""

    def run(options: Mapping[str, Any]) -> object:
        blocks = {"law": {"branch": [{name: json_like(options)}], "shortcut": "none"}}
        return build(spec_with(blocks=blocks, network=["law", LAST]))

    return run


def as_written(made: type, kind: str) -> Callable[[Mapping[str, Any]], object]:
    """Checks options that were written in YAML, as a spec does, of a pass or policy that is not registered."""

    def run(options: Mapping[str, Any]) -> object:
        plain = _read(json_like(options)).plain()
        faults = option_faults(made, plain, kind)
        raise_problems([Problem(Place(FILE), path, text, remedy) for path, text, remedy in faults])
        return plain

    return run


def json_like(value: Any) -> Any:
    """Plain lists, mappings and scalars, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: json_like(item) for key, item in value.items()}
    return [json_like(item) for item in value] if isinstance(value, list | tuple) else value
