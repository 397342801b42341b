"""Choices: what is read from `{choose: ...}`, which points there are, and what each of them stands for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nasir.errors import SpecError
from nasir.spec.choice_syntax import choice_paths, read_choices
from nasir.spec.choices import NO_DEFAULT, FloatRange, IntRange, Options, Space, when_text
from nasir.spec.domains import Domain, domain_of, values_of
from nasir.spec.load import load_raw, merge, override_tree
from nasir.spec.tree import Tree, as_tree, parse

TEXT = """\
lr: {choose: {float: [0.001, 1.0], log: true}, default: 0.1}
rules:
  - every: {choose: {int: [1, 9], step: 2}}
    do:
      choose:
        cases:
          grow: {insert-block: {init: {choose: [zero, gaussian], default: gaussian, name: init}}}
          none: null
  - choose: [{x: 1}, null, {x: {choose: [{choose: [5, 6]}, true]}}]
"""


def tree_of(text: str) -> Tree:
    tree = parse(text, "s.yaml")
    assert tree is not None
    return tree


def space_of(data: Any) -> tuple[Space, Tree]:
    tree = tree_of(data) if isinstance(data, str) else as_tree(data, tree_of("x: 1").place)
    space, problems = read_choices(tree)
    assert problems == []
    return space, tree


def resolved(text: str, values: dict[str, Any]) -> Any:
    space, tree = space_of(text)
    return space.resolve(tree, space.ask(lambda choice: values[choice.name])).plain()


def test_every_choice_is_named_by_its_path_and_knows_its_domain_and_default() -> None:
    space, _ = space_of(TEXT)
    assert [(choice.name, choice.domain, choice.default) for choice in space.choices] == [
        ("lr", FloatRange(0.001, 1.0, None, True), 0.1),
        ("rules.0.every", IntRange(1, 9, 2), NO_DEFAULT),
        ("rules.0.do", Options(("grow", "none")), NO_DEFAULT),
        ("init", Options(("zero", "gaussian")), "gaussian"),
        ("rules.1", Options(("x", None, "x-2")), NO_DEFAULT),
        ("rules.1.2.x", Options(("0", True)), NO_DEFAULT),
        ("rules.1.2.x.0", Options((5, 6)), NO_DEFAULT),
    ]
    assert [str(choice.place) for choice in space.choices][:3] == ["s.yaml:1:5", "s.yaml:3:12", "s.yaml:5:7"]


def test_a_conditional_choice_says_when_it_is_asked() -> None:
    asked = {described["name"]: described["when"] for described in space_of(TEXT)[0].describe()}
    assert asked["lr"] == asked["rules.1"] == []
    assert asked["init"] == [{"choice": "rules.0.do", "is": "grow"}]
    assert asked["rules.1.2.x"] == [{"choice": "rules.1", "is": "x-2"}]
    assert asked["rules.1.2.x.0"] == [{"choice": "rules.1.2.x", "is": "0"}]


def test_only_active_choices_are_asked_and_their_alternatives_stand_in_their_place() -> None:
    values = {"lr": 0.5, "rules.0.every": 3, "rules.0.do": "grow", "init": "zero", "rules.1": "x"}
    first = {"every": 3, "do": {"insert-block": {"init": "zero"}}}
    assert resolved(TEXT, values) == {"lr": 0.5, "rules": [first, {"x": 1}]}
    values |= {"rules.1": "x-2", "rules.1.2.x": "0", "rules.1.2.x.0": 6}
    assert resolved(TEXT, values) == {"lr": 0.5, "rules": [first, {"x": 6}]}
    values |= {"rules.1.2.x": True}
    assert resolved(TEXT, values) == {"lr": 0.5, "rules": [first, {"x": True}]}


def test_null_takes_out_the_key_or_the_item() -> None:
    values = {"lr": 0.5, "rules.0.every": 3, "rules.0.do": "none", "rules.1": None}
    assert resolved(TEXT, values) == {"lr": 0.5, "rules": [{"every": 3}]}


def test_a_null_that_is_no_alternative_stays() -> None:
    assert resolved("a: null\nb: {choose: [{c: null}, 1]}\n", {"b": "c"}) == {"a": None, "b": {"c": None}}


def test_the_base_point_has_defaults_else_the_first_or_the_lowest() -> None:
    space, _ = space_of(TEXT)
    first = {"lr": 0.1, "rules.0.every": 1, "rules.0.do": "grow", "init": "gaussian", "rules.1": "x"}
    assert space.base() == first
    assert space.defaults() == {"lr": 0.1}  # init has one too, but nobody says that it is asked


def test_defaults_reach_what_is_active_by_them() -> None:
    text = "a: {choose: {cases: {x: {b: {choose: [1, 2], default: 2}}, y: null}}, default: x}\nc: {choose: [1, 2]}\n"
    assert space_of(text)[0].defaults() == {"a": "x", "a.x.b": 2}
    assert space_of(text.replace("default: x}", "default: y}"))[0].defaults() == {"a": "y"}
    assert space_of("a: {choose: [1, null], default: null}")[0].defaults() == {"a": None}


@pytest.mark.parametrize(
    ("items", "ids"),
    [
        ("[2, 0.5, x, true, null]", (2, 0.5, "x", True, None)),
        ("[{a: 1}, {a: 2}, {a: 3}]", ("a", "a-2", "a-3")),
        ("[a, {a: 1}]", ("a", "a-2")),
        ("[{a: 1}, a, {a: 3}]", ("a-2", "a", "a-3")),
        ("[[], [1], {a: 1, b: 2}, {}]", ("0", "1", "2", "3")),
        ("[x, [1], '1']", ("x", "1-2", "1")),
        ("{cases: {u: 1, v: [1]}}", ("u", "v")),
    ],
)
def test_ids_of_alternatives(items: str, ids: tuple[Any, ...]) -> None:
    [choice] = space_of(f"k: {{choose: {items}}}")[0].choices
    assert choice.domain == Options(ids)


@pytest.mark.parametrize(
    ("text", "default"),
    [
        ("{choose: [{a: 1}, {a: 2}], default: a-2}", "a-2"),
        ("{choose: [{a: 1}, {a: 2}], default: {a: 2}}", "a-2"),
        ("{choose: {cases: {u: 1, v: [1]}}, default: [1]}", "v"),
        ("{choose: {cases: {u: 1, v: 2}}, default: v}", "v"),
        ("{choose: {float: [0, 1]}, default: 1}", 1.0),
        ("{choose: {float: [0, 1], step: 0.1}, default: 0.3}", 0.3),
    ],
)
def test_a_default_is_a_value_or_the_id_of_an_alternative(text: str, default: Any) -> None:
    [choice] = space_of(f"k: {text}")[0].choices
    assert choice.default == default


@pytest.mark.parametrize(
    ("domain", "size", "inside", "outside"),
    [
        (IntRange(1, 9, 2), 5, (1, 9, 3), (2, 0, 11, 3.0, True, "3", None)),
        (IntRange(1, 64, log=True), 64, (1, 64), (0, 65)),
        (FloatRange(0.0, 1.0), None, (0, 1, 0.3), (-1e-9, 1.1, "x", True, None)),
        (FloatRange(0.1, 0.7, 0.2), 4, (0.1, 0.30000000000000004, 0.7), (0.2, 0.9, -0.1, 1e300)),
        (Options((1, "a", None, False)), 4, (1, "a", None, False), (True, 0, "b", [1], {})),
    ],
)
def test_domains_accept_what_they_offer(domain: Domain, size: Any, inside: Any, outside: Any) -> None:
    assert domain.size == size
    assert domain_of(json.loads(json.dumps(domain.data()))) == domain
    for value in inside:
        assert domain.accept(value) == pytest.approx(value)
    for value in outside:
        with pytest.raises(ValueError, match=r"^(a number|a whole number|one of)"):
            domain.accept(value)
    if size is not None:
        values = list(values_of(domain))
        assert len(values) == size
        assert [domain.accept(value) for value in values] == values


def test_steps_have_the_values_that_one_would_write() -> None:
    assert list(values_of(FloatRange(0.1, 0.7, 0.2))) == [0.1, 0.3, 0.5, 0.7]
    assert FloatRange(0.1, 0.7, 0.2).accept(0.1 + 0.2) == 0.3


def test_a_suggestion_outside_the_domain_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a number, 0\.001 to 1"):
        space_of(TEXT)[0].ask(lambda choice: 2.0)


# -- names that are shared

SHARED = """\
a: {choose: {cases: {x: {k: {choose: [1, 2]}}, y: 0}}, name: n}
b: {choose: {cases: {x: 5, y: {l: {choose: {int: [1, 3]}}}}}, name: n, default: y}
c: {choose: [u, {b: {choose: {cases: {x: 1, y: 2}}, name: n}}]}
"""


def test_choices_of_one_name_share_their_value_not_their_contents() -> None:
    space, _ = space_of(SHARED)
    assert resolved(SHARED, {"n": "x", "a.x.k": 2, "c": "b"}) == {"a": {"k": 2}, "b": 5, "c": {"b": 1}}
    assert resolved(SHARED, {"n": "y", "b.y.l": 3, "c": "u"}) == {"a": 0, "b": {"l": 3}, "c": "u"}
    assert [choice.name for choice in space.choices] == ["n", "a.x.k", "b.y.l", "c"]
    assert space.choices[0].default == "y"
    assert space.size() == len(list(space.points())) == (2 + 3) * 2
    described = space.describe()[0]
    assert described["when"] == []
    assert [use["path"] for use in described["at"]] == ["a", "b", "c.1.b"]


def test_a_choice_inside_a_shared_one_is_asked_only_where_that_is_used() -> None:
    text = "a: {choose: [1, 2], name: n}\nb: {choose: [0, {choose: {cases: {1: {choose: [5, 6]}, 2: 0}}, name: n}]}\n"
    space, _ = space_of(text.replace("[1, 2]", "['1', '2']").replace("1:", "'1':").replace("2: 0", "'2': 0"))
    last = space.describe()[-1]
    assert (last["name"], last["when"]) == ("b.1.1", [{"choice": "n", "is": "1", "and": {"b": "1"}}])
    assert when_text(last["when"]) == "where n is 1 and b is 1"
    assert space.size() == len(list(space.points())) == 2 + 2 + 1


def test_a_shared_choice_is_asked_where_any_of_its_places_is_active() -> None:
    text = "a: {choose: [{k: {choose: [1, 2], name: n}}, {l: {choose: [1, 2], name: n}}, 0]}\n"
    space, _ = space_of(text)
    assert space.describe()[1]["when"] == [{"choice": "a", "is": "k"}, {"choice": "a", "is": "l"}]
    assert space.size() == len(list(space.points())) == 5


# -- size, digest, difference


def test_sizes() -> None:
    assert space_of(TEXT)[0].size() is None
    finite = TEXT.replace("float: [0.001, 1.0], log: true}, default: 0.1", "float: [0, 1], step: 0.5}")
    space, _ = space_of(finite)
    assert space.size() == 3 * 5 * (2 + 1) * (1 + 1 + 2 + 1)
    with pytest.raises(ValueError, match="no end"):
        next(space_of(TEXT)[0].points())


def test_a_large_space_is_counted_without_listing_it() -> None:
    rows = [f"k{i}: {{choose: {{cases: {{a: {{choose: {{int: [1, 1000]}}}}, b: 0}}}}}}" for i in range(200)]
    assert space_of("\n".join(rows))[0].size() == 1001**200
    rows = [f"k{i}: {{choose: {{int: [1, 10]}}, name: n{i % 50}}}" for i in range(200)]
    assert space_of("\n".join(rows))[0].size() == 10**50


def test_the_points_of_a_giant_grid_come_one_by_one() -> None:
    space, _ = space_of("a: {choose: {int: [1, 1000000000000]}}\nb: {choose: {float: [0, 1], step: 1.0e-12}}\n")
    assert space.size() == 10**12 * (10**12 + 1)
    assert list(islice(space.points(), 2)) == [{"a": 1, "b": 0.0}, {"a": 1, "b": 1e-12}]


def test_the_digest_is_that_of_what_can_be_chosen() -> None:
    digest = space_of(TEXT)[0].digest
    blocks = "# note\n" + "".join(reversed(TEXT.partition("rules:")[::2])).replace("  - every", "rules:\n  - every", 1)
    assert space_of(blocks)[0].digest == digest  # lines moved
    assert space_of(TEXT.replace("1.0]", "1]").replace(", default: 0.1", ""))[0].digest == digest
    for old, new in (
        ("[1, 9]", "[1, 7]"),
        ("log: true", "log: false"),
        ("[zero, gaussian]", "[zero, gaussian, uniform]"),
        ("name: init", "name: start"),
        ("grow: {insert-block", "grow: {insert-blocks"),
        ("{x: 1}, null", "{x: 2}, null"),
        ("[5, 6]", "[6, 5]"),
    ):
        assert TEXT.count(old) == 1
        assert space_of(TEXT.replace(old, new))[0].digest != digest


@pytest.mark.parametrize(
    ("old", "new", "sentences"),
    [
        ("[1, 9]", "[1, 5]", ["rules.0.every: was int 1..9 step 2, is int 1..5 step 2"]),
        ("0.001, 1.0], log: true", "0.001, 1.0]", ["lr: was float 0.001..1 log, is float 0.001..1"]),
        ("[zero, gaussian]", "[zero, one, gaussian]", ["init: was zero | gaussian, is zero | one | gaussian"]),
        ("insert-block", "widen", ["rules.0.do: other content in grow"]),
        ("rules:", "a: {choose: [1, 2]}\nrules:", ["new choice a: 1 | 2"]),
        (
            ", name: init",
            "",
            [
                "rules.0.do: other content in grow",
                "new choice rules.0.do.grow.insert-block.init: zero | gaussian",
                "gone: init (zero | gaussian)",
            ],
        ),
        ("lr:", "rate:", ["new choice rate: float 0.001..1 log", "gone: lr (float 0.001..1 log)"]),
        ("default: 0.1", "default: 0.2", []),
    ],
)
def test_differences_are_told_in_sentences(old: str, new: str, sentences: list[str]) -> None:
    before = json.loads(json.dumps(space_of(TEXT)[0].describe()))
    other = TEXT.replace(old, new)
    assert other != TEXT
    told = space_of(other)[0].difference(before)
    assert [sentence[: len(wanted)] for sentence, wanted in zip(told, sentences, strict=False)] == sentences
    assert bool(told) == bool(sentences) == (space_of(other)[0].digest != space_of(TEXT)[0].digest)


def test_a_changed_condition_is_told() -> None:
    text = "a: {choose: {cases: {x: {k: {choose: [1, 2], name: n}}, y: {}}}}\n"
    before = space_of(text)[0].describe()
    after = space_of(text.replace("y: {}", "y: {z: 1}").replace("cases: {x:", "cases: {w: 1, x:"))[0]
    assert after.difference(before) == ["a: was x | y, is w | x | y"]
    moved = space_of(
        text.replace("x: {k: {choose: [1, 2], name: n}}, y: {}", "x: {}, y: {k: {choose: [1, 2], name: n}}")
    )
    assert "n: was asked where a is x, is where a is y" in moved[0].difference(before)


# -- extends and --set


def test_a_choice_replaces_and_is_replaced_as_a_whole(tmp_path: Any) -> None:
    (tmp_path / "base.yaml").write_text(
        "a: {choose: {int: [1, 9]}, default: 3}\nb: {x: 1, y: 2}\nc: {choose: [{k: 1}, 2]}\n"
    )
    (tmp_path / "top.yaml").write_text(
        "extends: base.yaml\na: {choose: {int: [1, 5]}}\nb: {choose: [{x: 3}, {y: 4}]}\nc: {l: 2}\n"
    )
    assert load_raw(tmp_path / "top.yaml").tree.plain() == {
        "a": {"choose": {"int": [1, 5]}},
        "b": {"choose": [{"x": 3}, {"y": 4}]},
        "c": {"l": 2},
    }
    choice, mapping = as_tree({"choose": [1, 2]}, tree_of("x: 1").place), as_tree({"k": 1}, tree_of("x: 1").place)
    assert merge(choice, mapping) is mapping
    assert merge(mapping, choice) is choice


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a=3", {"a": 3, "b": {"x": 1}, "c": 5}),
        ("a.choose.int.1=5", {"a": {"choose": {"int": [1, 5]}}, "b": {"x": 1}, "c": 5}),
        ("a.choose=[1, 2]", {"a": {"choose": [1, 2]}, "b": {"x": 1}, "c": 5}),
        ("a.default=2", {"a": {"choose": {"int": [1, 9]}, "default": 2}, "b": {"x": 1}, "c": 5}),
        ("b.choose=[1, 2]", {"a": {"choose": {"int": [1, 9]}}, "b": {"choose": [1, 2]}, "c": 5}),
        ("c.choose=[1, 2]", {"a": {"choose": {"int": [1, 9]}}, "b": {"x": 1}, "c": {"choose": [1, 2]}}),
        ("b.x.choose=[1, 2]", {"a": {"choose": {"int": [1, 9]}}, "b": {"x": {"choose": [1, 2]}}, "c": 5}),
        ("d.choose=[1, 2]", {"a": {"choose": {"int": [1, 9]}}, "b": {"x": 1}, "c": 5, "d": {"choose": [1, 2]}}),
    ],
)
def test_overrides_fix_change_and_make_choices(override: str, value: Any) -> None:
    tree = as_tree({"a": {"choose": {"int": [1, 9]}}, "b": {"x": 1}, "c": 5}, tree_of("x: 1").place)
    assert override_tree(tree, override).plain() == value


def test_an_override_into_a_choice_is_refused() -> None:
    tree = as_tree({"a": {"choose": [{"k": 1}, 2]}}, tree_of("x: 1").place)
    with pytest.raises(SpecError) as caught:
        override_tree(tree, "a.k=3")
    assert str(caught.value) == (
        "--set a.k=3: a is a choice, it has no 'k'; fix it as a whole (--set 'a=...') or change its `choose`"
    )


# -- laws

KEYS = st.sampled_from("pqr")
SCALARS = st.sampled_from([1, 2, 0.5, "u", "v", False])
NAMED = st.sampled_from(
    [
        {"choose": {"int": [1, 3]}, "name": "m"},
        {"choose": {"cases": {"x": 1, "y": None}}, "name": "n"},
        {"choose": {"cases": {"x": {"choose": [7, 8]}, "y": [{"choose": {"int": [1, 3]}, "name": "m"}]}}, "name": "n"},
    ]
)


def choices(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    distinct = st.lists(inner, min_size=2, max_size=3, unique_by=lambda item: json.dumps(item, sort_keys=True))
    listed = distinct.filter(lambda items: all(a != b for i, a in enumerate(items) for b in items[:i]))
    with_null = st.tuples(listed, st.booleans()).map(lambda both: both[0] + [None] * both[1])
    cases = distinct.map(lambda items: {"cases": dict(zip("xyz", items, strict=False))})
    ranges = st.sampled_from([{"int": [0, 2]}, {"int": [2, 6], "step": 2}, {"float": [0, 0.2], "step": 0.1}])
    return st.one_of(with_null, cases, ranges).map(lambda kind: {"choose": kind})


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(KEYS, inner, max_size=3) | st.lists(inner, max_size=3)


TREES = st.recursive(SCALARS | NAMED, lambda inner: containers(inner) | choices(inner), max_leaves=8)
ROOTS = st.dictionaries(KEYS, TREES, min_size=1, max_size=3)


def outcomes(data: Any, fixed: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any], bool]]:
    """An independent model, for each way to choose: what it stands for, values of named choices, is it there."""
    if isinstance(data, dict) and "choose" in data:
        given = data["choose"]
        if isinstance(given, list):
            options = dict(enumerate(given))
        elif "cases" in given:
            options = given["cases"]
        else:
            [(low, high)] = [value for key, value in given.items() if key in ("int", "float")]
            step = given.get("step", 1)
            options = {number: round(low + number * step, 9) for number in range(round((high - low) / step) + 1)}
        name = data.get("name")
        for key, item in options.items():
            if name is None or fixed.get(name, key) == key:
                known = fixed if name is None else {**fixed, name: key}
                if item is None:
                    yield None, known, False
                else:
                    yield from outcomes(item, known)
    elif isinstance(data, dict | list):
        pairs = list(data.items() if isinstance(data, dict) else enumerate(data))
        for kept, known in combined(pairs, fixed):
            yield (dict(kept) if isinstance(data, dict) else [item for _, item in kept]), known, True
    else:
        yield data, fixed, True


def combined(
    pairs: list[tuple[Any, Any]], fixed: dict[str, Any]
) -> Iterator[tuple[list[tuple[Any, Any]], dict[str, Any]]]:
    if not pairs:
        yield [], fixed
        return
    (key, item), *rest = pairs
    for made, known, there in outcomes(item, fixed):
        for others, all_known in combined(rest, known):
            yield ([(key, made)] if there else []) + others, all_known


def multiset(items: Any) -> list[str]:
    return sorted(json.dumps(item, sort_keys=True) for item in items)


@settings(deadline=None, max_examples=300)
@given(ROOTS)
def test_the_points_of_a_space_are_all_ways_to_choose(data: Any) -> None:
    space, tree = read_choices(as_tree(data, tree_of("x: 1").place))[0], as_tree(data, tree_of("x: 1").place)
    assume(not read_choices(tree)[1])
    size = space.size()
    assume(size is not None and size <= 500)
    points = list(space.points())
    assert len(points) == len(set(multiset(points))) == size
    trees = [space.resolve(tree, point) for point in points]
    assert not any(list(choice_paths(resolved)) for resolved in trees)
    assert multiset(resolved.plain() for resolved in trees) == multiset(made for made, _, _ in outcomes(data, {}))
    assert space.base() in points
    assert space.difference(json.loads(json.dumps(space.describe()))) == []
    active = {described["name"]: described["when"] for described in space.describe()}
    for point in points:
        for name, when in active.items():
            conditions = [{condition["choice"]: condition["is"], **condition.get("and", {})} for condition in when]
            fits = not when or any(needed.items() <= point.items() for needed in conditions)
            assert (name in point) == fits
