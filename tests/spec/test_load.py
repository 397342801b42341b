"""YAML to a raw tree: scalars of YAML 1.2, places, `extends:` and `--set`."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nasir.errors import SpecError
from nasir.spec.dump import dump
from nasir.spec.load import load_raw, merge, override_tree
from nasir.spec.problems import Place
from nasir.spec.tree import Tree, as_tree, key_place, locate, parse

HERE = Place("here", 1, 1)


def value_of(text: str) -> Any:
    tree = parse(text, "t.yaml")
    return None if tree is None else tree.plain()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("+12", 12),
        ("-0", 0),
        ("010", 10),
        ("0o17", 15),
        ("0xfF", 255),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("Null", None),
        ("2026-11-21", "2026-11-21"),
        ("'1'", "1"),
        ('"true"', "true"),
        ("! 7", "7"),
        ("e3", "e3"),
        ("9223372036854775807", 2**63 - 1),
        ("|\n  a\n  b\n", "a\nb\n"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(text: str, value: Any) -> None:
    loaded = value_of(f"k: {text}")["k"]
    assert loaded == value
    assert type(loaded) is type(value)


def test_places_point_at_keys_and_values() -> None:
    tree = parse("a:\n  b: [1, {c: 2}]\n  d:\n", "t.yaml")
    assert tree is not None
    assert str(locate(tree, ("a", "b", 1, "c"))) == "t.yaml:2:14"
    assert str(key_place(tree, ("a", "b", 1, "c"))) == "t.yaml:2:11"
    assert str(locate(tree, ("a", "b", 9, "z"))) == "t.yaml:2:6"
    assert str(locate(tree, ("a", "d"))) == "t.yaml:3:3"  # an empty value has no place of its own


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(texts))}.yaml"


def test_extends_merges_maps_and_replaces_lists(tmp_path: Path) -> None:
    top = files(
        tmp_path,
        top="extends: sub/../base.yaml\na: {x: 9, l: [3]}\nc: 4\n",
        base="a: {x: 1, y: 2, l: [1, 2]}\nb: 3\nc: {d: 1}\n",
    )
    (tmp_path / "sub").mkdir()
    raw = load_raw(top)
    assert raw.tree.plain() == {"a": {"x": 9, "y": 2, "l": [3]}, "b": 3, "c": 4}
    assert [file.name for file in raw.files] == ["top.yaml", "base.yaml"]


def test_places_survive_into_the_extended_file(tmp_path: Path) -> None:
    top = files(tmp_path, top="extends: base.yaml\na: {x: 9}\n", base="# a\na: {x: 1, y: 2}\n")
    tree = load_raw(top).tree
    assert str(locate(tree, ("a", "x"))) == f"{tmp_path}/top.yaml:2:8"
    assert str(locate(tree, ("a", "y"))) == f"{tmp_path}/base.yaml:2:14"


def test_extends_chains_and_each_path_is_relative_to_its_own_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mid.yaml").write_text("extends: low.yaml\nb: 2\n")
    (tmp_path / "sub" / "low.yaml").write_text("a: 1\nb: 1\nc: 1\n")
    top = files(tmp_path, top="extends: sub/mid.yaml\nc: 3\n")
    assert load_raw(top).tree.plain() == {"a": 1, "b": 2, "c": 3}


def error_of(path: Path, *overrides: str) -> str:
    with pytest.raises(SpecError) as caught:
        load_raw(path, overrides)
    return str(caught.value)


def test_specs_that_extend_each_other_are_refused_at_the_line_that_closes_the_circle(tmp_path: Path) -> None:
    top = files(tmp_path, top="extends: b.yaml\n", b="a: 1\nextends: ./top.yaml\n")
    place = f"{tmp_path}/b.yaml:2:10: extends"
    assert error_of(top) == f"{place}: extends itself (top.yaml -> b.yaml -> top.yaml); break the circle"
    top.write_text("extends: top.yaml")
    assert "extends itself (top.yaml -> top.yaml)" in error_of(top)


def test_a_long_chain_of_extends_is_refused(tmp_path: Path) -> None:
    for index in range(12):
        (tmp_path / f"s{index}.yaml").write_text(f"extends: s{index + 1}.yaml\n")
    (tmp_path / "s12.yaml").write_text("a: 1\n")
    assert error_of(tmp_path / "s0.yaml").endswith(
        "s8.yaml:1:10: extends: more than 8 specs extend each other; flatten some of them"
    )


@pytest.mark.parametrize(
    ("base", "fragment"),
    [
        ("gone.yaml", "s.yaml:2:10: extends: {folder}/gone.yaml: no such file"),
        ("[a]", "s.yaml:2:10: extends: expected the path of one spec, relative to this file; write `extends: base"),
        ("", "s.yaml:2:1: extends: expected the path of one spec"),
        (".", "s.yaml:2:10: extends: {folder}: is a directory, not a spec"),
        ('"a\\0b"', "s.yaml:2:10: extends: the character U+0000 cannot be part of a value; remove its escape"),
    ],
)
def test_an_unusable_extends_is_refused_where_it_stands(tmp_path: Path, base: str, fragment: str) -> None:
    top = files(tmp_path, s=f"nasir: 1\nextends: {base}\n")
    assert fragment.format(folder=tmp_path) in error_of(top)


def test_a_syntax_error_in_an_extended_file_names_that_file(tmp_path: Path) -> None:
    top = files(tmp_path, top="extends: base.yaml\n", base="a: [1\n")
    assert error_of(top).startswith(f"{tmp_path}/base.yaml:2:1: not YAML")


def test_a_missing_file_deep_in_a_chain_is_told_at_the_file_that_names_it(tmp_path: Path) -> None:
    top = files(tmp_path, top="extends: mid.yaml\n", mid="a: 1\nextends: low.yml\n", low="a: 1\n")
    assert error_of(top) == (
        f"{tmp_path}/mid.yaml:2:10: extends: {tmp_path}/low.yml: no such file; did you mean {tmp_path}/low.yaml?"
    )


def overridden(data: Any, *overrides: str) -> Any:
    tree = as_tree(data, HERE)
    for override in overrides:
        tree = override_tree(tree, override)
    return tree.plain()


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("a.b=1e-3", {"a": {"b": 0.001}, "l": [{"x": 1}, 2]}),
        ("a.b=no", {"a": {"b": "no"}, "l": [{"x": 1}, 2]}),
        ("a.b=", {"a": {"b": None}, "l": [{"x": 1}, 2]}),
        ("a.b={c: [1, 2]}", {"a": {"b": {"c": [1, 2]}}, "l": [{"x": 1}, 2]}),
        ("a.b=x=y", {"a": {"b": "x=y"}, "l": [{"x": 1}, 2]}),
        ("l.0.x=7", {"a": {"b": 1}, "l": [{"x": 7}, 2]}),
        ("l.1=7", {"a": {"b": 1}, "l": [{"x": 1}, 7]}),
        ("new.deep=7", {"a": {"b": 1}, "l": [{"x": 1}, 2], "new": {"deep": 7}}),
        (" a.b = 7", {"a": {"b": 7}, "l": [{"x": 1}, 2]}),
    ],
)
def test_an_override_replaces_one_value_by_the_rules_of_yaml(override: str, value: Any) -> None:
    assert overridden({"a": {"b": 1}, "l": [{"x": 1}, 2]}, override) == value


def test_later_overrides_win() -> None:
    assert overridden({"a": 1}, "a=2", "a=3") == {"a": 3}


def test_an_override_touches_only_one_of_two_aliases() -> None:
    tree = parse("a: &x {n: 1}\nb: *x\n", "t.yaml")
    assert tree is not None
    assert override_tree(tree, "a.n=2").plain() == {"a": {"n": 2}, "b": {"n": 1}}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("a", "--set a: expected PATH=VALUE; for example --set data.batch_size=64"),
        ("=3", "--set =3: expected PATH=VALUE; for example --set data.batch_size=64"),
        ("a..b=3", "--set a..b=3: expected PATH=VALUE; for example --set data.batch_size=64"),
        ("l.2=3", "--set l.2=3: l has items 0 to 1, not '2'; address a list item by its index"),
        ("l.-1=3", "--set l.-1=3: l has items 0 to 1, not '-1'; address a list item by its index"),
        ("e.0=3", "--set e.0=3: e is an empty list, not '0'; address a list item by its index"),
        ("a.b.c=3", "--set a.b.c=3: a.b is the value 1, it has no 'c'; replace it as a whole: --set 'a.b={c: ...}'"),
        ("a=[", "--set a=[: the value: not YAML: "),
        ("a=.inf", "--set a=.inf: the value: .inf is not a finite number; give a number that a computer can hold"),
        ("extends=x.yaml", "--set extends=x.yaml: `extends` is read before overrides; write it in a file"),
    ],
)
def test_an_unusable_override_is_named(override: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        overridden({"a": {"b": 1}, "l": [1, 2], "e": []}, override)
    assert str(caught.value).startswith(message)


words = st.text(string.printable + "äß€", max_size=12)
scalars = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
trees = st.recursive(
    scalars | words | st.sampled_from(["no", "1e-3", "0o7", "~", "1:30", "010", "0x1", ".5", "<<", "=", "- a", ""]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(words.filter(lambda key: key != "<<"), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=150)
@given(trees)
def test_dumped_data_reads_back_equal(data: Any) -> None:
    tree = parse(dump({"k": data}), "t.yaml")
    assert tree is not None
    assert tree.plain() == {"k": data}


def test_dumping_leaves_other_users_of_pyyaml_alone() -> None:
    assert yaml.safe_dump("1e-3") == "1e-3\n...\n"


@settings(deadline=None, max_examples=150)
@given(st.text("ab:{}[]&*-|>'\"!#%@,? \n\t0.e", max_size=30))
def test_any_text_is_a_tree_or_a_spec_error_with_its_line(text: str) -> None:
    try:
        parse(text, "t.yaml")
    except SpecError as error:
        line = int(str(error).split(":")[1])
        assert 1 <= line <= text.count("\n") + 1


maps = st.recursive(
    scalars, lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.lists(inner, max_size=2)
)


def merged(base: Any, over: Any) -> Any:
    tree: Tree = merge(as_tree(base, HERE), as_tree(over, HERE))
    return tree.plain()


@settings(deadline=None, max_examples=100)
@given(maps, maps)
def test_merging_is_idempotent_and_keeps_what_the_later_file_says(base: Any, over: Any) -> None:
    assert merged(base, base) == base
    assert merged(base, {}) == (base if isinstance(base, dict) else {})
    once = merged(base, over)
    assert merged(once, over) == once
