"""The checker of options: what annotations mean, what is said, and classes that check themselves."""

from __future__ import annotations

import copy
import math
import pickle
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import InitVar, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NewType

import numpy as np
import pytest
from annotated_types import Ge, Gt, Interval, Le, Len, Lt, MaxLen, MinLen, MultipleOf, Predicate

import nasir
from nasir.blocks import Maker, build_block
from nasir.errors import NasirError, OptionError, TypeRuleError, UsageError
from nasir.ir import Draft, Graph, Port, ValueType, op
from nasir.ir.infer import At
from nasir.ir.op import PerAxis, op_named
from nasir.options import Checked, Remedy, checked, construct, kind_of, options_of, parameters_of
from nasir.registry import blocks, ops
from nasir.rewriting.rewrite import Pass

if TYPE_CHECKING:
    from nasir.nowhere import Missing

UserId = NewType("UserId", int)


@dataclass(frozen=True)
class Inner(Checked):
    size: Annotated[int, Ge(1)]
    word: Literal["a", "b"] = "a"


GOOD: list[tuple[Any, Any, Any]] = [
    (bool, True, True),
    (int, np.int64(3), 3),
    (float, 3, 3.0),
    (float, np.float32(0.5), 0.5),
    (float | int, 3, 3),
    (str | None, None, None),
    (Literal["a", 1, None], 1, 1),
    (list[int], (8, 8), [8, 8]),
    (tuple[int, ...], [8, 8], (8, 8)),
    (tuple[int, float], [1, 2], (1, 2.0)),
    (tuple[tuple[int, int], ...], [[1, 2], [3, 4]], ((1, 2), (3, 4))),
    (Sequence[int], [1], (1,)),
    (frozenset[str], ["x"], frozenset({"x"})),
    (list, [1, "a"], [1, "a"]),
    (Mapping[str, float], {"a": 1}, {"a": 1.0}),
    (dict[Literal["a"], int], {"a": 1}, {"a": 1}),
    (Mapping[str, Any], {"a": [1]}, {"a": [1]}),
    (Inner, {"size": 2}, Inner(2)),
    (Inner, Inner(3), Inner(3)),
    (list[Inner] | None, [{"size": 2, "word": "b"}], [Inner(2, "b")]),
    (UserId, 3, 3),
    (Annotated[float, Gt(0), Lt(1)], 0.5, 0.5),
    (Annotated[float | None, Gt(0)], None, None),
    (Annotated[int, Interval(ge=2, le=4)], 4, 4),
    (Annotated[int, MultipleOf(8)], 16, 16),
    (Annotated[tuple[int, ...], Len(1, 2)], [1], (1,)),
    (Annotated[str, "free text"], "x", "x"),
    (PerAxis, [3, 3], 3),
    (PerAxis, (3, 5), (3, 5)),
    (Callable[..., Any], math.sin, math.sin),
    (object, 3, 3),
]


def told(value: object) -> str:
    """A value as part of a test's name, which has to be the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize(("annotation", "value", "normal"), GOOD, ids=told)
def test_values_are_normalized(annotation: Any, value: Any, normal: Any) -> None:
    made, faults = kind_of(annotation).normal(value)
    assert not faults
    assert made == normal and type(made) is type(normal)
    again, faults = kind_of(annotation).normal(made)
    assert not faults and again == made and type(again) is type(made)


BAD: list[tuple[Any, Any, tuple[Any, ...], str, str]] = [
    (bool, 1, (), "expected true or false, found 1", "write true or false"),
    (int, True, (), "expected a whole number, found true", "write digits only, such as 3"),
    (int, 1.0, (), "expected a whole number, found 1.0", "write digits only, such as 3"),
    (float, "1", (), "expected a number, found the text '1'", "write a number such as 0.1"),
    (float, math.nan, (), "expected a finite number, found nan", "write a number such as 0.1"),
    (Annotated[int, Le(9)], 10**400, (), "must be at most 9, found 1000", "use a value at most 9"),
    (float, 10**400, (), "expected a finite number, found ", "write a number such as 0.1"),
    (int | None, math.inf, (), "expected a whole number or nothing, found inf", "write a whole number or nothing"),
    (str, 3, (), "expected text, found 3", "put it into quotes if it is text"),
    (Literal["zero", "copy"], "zeros", (), "unknown value 'zeros'", "did you mean 'zero'?"),
    (Literal["zero", "copy"], 3, (), "unknown value 3", "known: zero, copy"),
    (Literal["mean"] | float, "meen", (), "expected the word mean or a number, found the text 'meen'", "did you mean"),
    (list[int], 8, (), "expected a list, found 8", "write a list"),
    (list[int], "88", (), "expected a list, found the text '88'", "write a list"),
    (list[int], [1, "a"], (1,), "expected a whole number, found the text 'a'", "write digits"),
    (tuple[int, int], [1], (), "expected 2 items, found 1", "give 2"),
    (tuple[int, ...] | int, [1, 2.5], (1,), "expected a whole number, found 2.5", "write digits"),
    (Mapping[str, int], {"a": "b"}, ("a",), "expected a whole number, found the text 'b'", "write digits"),
    (Mapping[Literal["macs"], int], {"mac": 1}, ("mac",), "unknown value 'mac'", "did you mean 'macs'?"),
    (Mapping[str, int], [1], (), "expected a mapping, found a list of 1", "write `key: value` pairs"),
    (Inner, {"size": 0}, ("size",), "must be at least 1, found 0", "use a value at least 1"),
    (Inner, {"word": "a"}, ("size",), "this option is required", "add `size: ...`"),
    (Inner, {"size": 1, "wrd": 1}, ("wrd",), "unknown option", "did you mean 'word'?"),
    (Annotated[float, Gt(0)], 0, (), "must be above 0, found 0", "use a value above 0"),
    (Annotated[float, Lt(1)], 1, (), "must be below 1, found 1", "use a value below 1"),
    (Annotated[int, Le(4)], 5, (), "must be at most 4, found 5", "use a value at most 4"),
    (Annotated[int, Interval(ge=2, le=4)], 1, (), "must be at least 2, found 1", "use a value at least 2"),
    (Annotated[int, MultipleOf(8)], 12, (), "must be a multiple of 8, found 12", "use a multiple of 8"),
    (Annotated[int | None, Ge(1)], 0, (), "must be at least 1, found 0", "use a value at least 1"),
    (Annotated[int, Ge(1), Remedy("take one")], 0, (), "must be at least 1, found 0", "take one"),
    (Annotated[tuple[int, ...], MinLen(1)], [], (), "too few items: 0", "give at least 1"),
    (Annotated[list[int], MaxLen(1)], [1, 2], (), "too many items: 2", "give at most 1"),
    (Annotated[str, MinLen(1)], "", (), "expected text, found none", "write it out"),
    (tuple[Annotated[int, Ge(1)], ...], [1, 0], (1,), "must be at least 1, found 0", "use a value at least 1"),
]


@pytest.mark.parametrize(("annotation", "value", "path", "text", "remedy"), BAD, ids=told)
def test_what_does_not_fit_is_told(annotation: Any, value: Any, path: tuple[Any, ...], text: str, remedy: str) -> None:
    _, [(place, told, cure)] = kind_of(annotation).normal(value)
    assert place == path and told.startswith(text) and cure.startswith(remedy)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (Annotated[str, Gt(0)], r"Gt\(gt=0\) is no bound of str"),
        (Annotated[tuple[int, ...], Ge(1)], r"Ge\(ge=1\) is no bound of tuple\[int, ...\]"),
        (Annotated[str | None, Ge(1)], r"Ge\(ge=1\) is no bound of any of str, NoneType"),
        (Annotated[int, Predicate(bool)], "Predicate.* is no bound of int"),
    ],
)
def test_a_bound_that_would_not_be_checked_is_refused(annotation: Any, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        kind_of(annotation)


def test_ranges_and_words_are_in_the_schema() -> None:
    assert kind_of(Annotated[float, Gt(0), Le(1)]).schema() == {
        "type": "number",
        "exclusiveMinimum": 0,
        "maximum": 1,
    }
    assert kind_of(Annotated[int | Literal["all"], MultipleOf(8)]).schema() == {
        "anyOf": [{"type": "integer", "multipleOf": 8}, {"enum": ["all"]}]
    }
    assert kind_of(Annotated[tuple[int, ...], MinLen(1)]).schema() == {
        "type": "array",
        "minItems": 1,
        "items": {"type": "integer"},
    }
    inner = kind_of(Inner).schema()
    assert inner["required"] == ["size"] and inner["properties"]["word"] == {"enum": ["a", "b"], "default": "a"}


# classes that check themselves


class Nothing(Pass):
    """The parts of a pass that do not matter here."""

    def sites(self, graph: Graph) -> Iterable[str]:
        return []

    def rewrite(self, draft: Draft, site: str, seen: Any) -> None:
        return None


@dataclass(frozen=True)
class Own(Nothing):
    """A pass of a third party, with checks of its own."""

    rate: Annotated[float, Gt(0), Le(1)]
    sizes: tuple[int, ...] = ()
    how: Literal["fresh", "copy"] = "fresh"
    seen: list[Any] = field(default_factory=list, init=False, compare=False)
    scale: InitVar[int] = 1
    cases: ClassVar[int] = 0

    def __post_init__(self, scale: int) -> None:
        self.seen.append((self.rate, self.sizes, scale))
        if self.how == "copy" and not self.sizes:
            raise ValueError("how: copy needs sizes; give one or more")


def test_a_post_init_sees_values_in_their_normal_form() -> None:
    assert Own(1, [2, 3]).seen == [(1.0, (2, 3), 1)]  # type: ignore[arg-type]
    assert Own(rate=1, sizes=[2], scale=3).seen == [(1.0, (2,), 3)]  # type: ignore[arg-type]
    assert hash(Own(0.5, [1])) == hash(Own(0.5, (1,)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"rate": 0}, "pass Own: rate: must be above 0, found 0; use a value above 0"),
        ({"rate": math.nan}, "pass Own: rate: expected a finite number, found nan; write a number such as 0.1"),
        ({}, "pass Own: rate: this option is required; add `rate: ...`"),
        ({"rate": 1, "hwo": "copy"}, "pass Own: hwo: unknown option; did you mean 'how'?"),
        ({"rate": 1, "seen": []}, "pass Own: seen: unknown option; known: rate, sizes, how"),
        ({"rate": 1, "how": "copies"}, "pass Own: how: unknown value 'copies'; did you mean 'copy'?"),
        ({"rate": 1, "how": "copy"}, "pass Own: how: copy needs sizes; give one or more"),
        (
            {"rate": 2, "sizes": 3},
            "pass Own: rate: must be at most 1, found 2; use a value at most 1\n"
            "pass Own: sizes: expected a list, found 3; write a list such as [a, b]",
        ),
    ],
)
def test_a_wrong_option_is_an_option_error(given: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionError) as caught:
        Own(**given)
    assert str(caught.value) == text
    assert isinstance(caught.value, ValueError) and caught.value.exit_code == 2
    assert len(caught.value.faults) == text.count("\n") + 1


def test_python_itself_refuses_an_option_that_is_given_twice() -> None:
    with pytest.raises(TypeError, match="multiple values"):
        Own(0.5, rate=0.5)  # type: ignore[misc]
    with pytest.raises(TypeError, match="positional"):
        Own(0.5, (), "fresh", 1, 2)  # type: ignore[call-arg]


def test_it_stays_a_dataclass() -> None:
    made = Own(0.5, (1,))
    assert copy.deepcopy(made) == copy.copy(made) == pickle.loads(pickle.dumps(made)) == made
    inner = Inner(2)
    assert replace(inner, size=3) == Inner(3) and pickle.loads(pickle.dumps(inner)) == inner
    with pytest.raises(OptionError, match="size: must be at least 1"):
        replace(inner, size=0)


@dataclass(frozen=True)
class Grown(Own):
    """A subclass with one more option."""

    more: Annotated[int, Ge(0)] = 0


class Undecorated(Own):
    """A subclass without fields of its own, and without @dataclass."""


@dataclass(frozen=True, slots=True)
class Slotted(Checked):
    count: Annotated[int, Ge(1)] = 1


@dataclass(frozen=True, init=False)
class Handmade(Checked):
    """Its __init__ is written by hand."""

    count: Annotated[int, Ge(1)]

    def __init__(self, count: int = 2, *, double: bool = False) -> None:
        object.__setattr__(self, "count", 2 * count if double else count)


def test_subclasses_slots_and_constructors_by_hand_are_checked() -> None:
    assert Grown(1, more=2).more == 2 and Undecorated(1).rate == 1.0
    for make, text in (
        (lambda: Grown(0.5, more=-1), "more: must be at least 0"),
        (lambda: Grown(5), "rate: must be at most 1"),
        (lambda: Undecorated(5), "rate: must be at most 1"),
        (lambda: Slotted(0), "count: must be at least 1"),
        (lambda: Handmade(0), "count: must be at least 1"),
    ):
        with pytest.raises(OptionError, match=text):
            make()
    assert Handmade(double=True) == Handmade(4)


@dataclass(frozen=True)
class Unresolved(Nothing):
    thing: Missing | None = None


@dataclass(frozen=True)
class Elsewhere(Nothing):
    count: Annotated[int, Ge(1)] = 1
    cache: ClassVar[Missing | None] = None


def test_an_annotation_that_cannot_be_resolved_is_a_clear_error() -> None:
    with pytest.raises(UsageError, match=r"Unresolved: the annotation 'Missing \| None' of 'thing' cannot be resolved"):
        Unresolved()
    assert Elsewhere().count == 1, "what is no option is nobody's business"
    with pytest.raises(OptionError, match="count: must be at least 1"):
        Elsewhere(count=0)


def test_a_plain_dataclass_is_checked_where_it_is_constructed() -> None:
    @dataclass(frozen=True)
    class Plain:
        count: int = 1

        def __post_init__(self) -> None:
            if self.count == 3:
                raise KeyError("three")

    assert construct(Plain, {"count": 2}, "policy plain") == Plain(2)
    with pytest.raises(OptionError, match="policy plain: count: expected a whole number, found the text 'a'"):
        construct(Plain, {"count": "a"}, "policy plain")
    with pytest.raises(OptionError, match="policy plain: KeyError: 'three'; see the options of the policy"):
        construct(Plain, {"count": 3}, "policy plain")


# from everywhere


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("insert-block", {"init": "zeros"}, "pass insert-block: init: unknown value 'zeros'; did you mean 'zero'?"),
        ("widen", {"factor": 2.0, "how": "frseh"}, "pass widen: how: unknown value 'frseh'; did you mean 'fresh'?"),
        (
            "prune-channels",
            {"fraction": 0.5, "ranking": "Global"},
            "pass prune-channels: ranking: unknown value 'Global'; did you mean 'global'?",
        ),
        (
            "prune-channels",
            {"fraction": 0.5, "constants": "none"},
            "pass prune-channels: constants: unknown value 'none'; known: fold, drop",
        ),
        (
            "prune-channels",
            {"fraction": 0.5, "score": "l1x"},
            "pass prune-channels: score: unknown value 'l1x'; did you mean 'l1'?",
        ),
        (
            "split-branches",
            {"how": "align"},
            "pass split-branches: how: unknown value 'align'; did you mean",
        ),
        ("keep-blocks", {"depths": "3"}, "pass keep-blocks: depths: expected a list or a whole number, found the text"),
    ],
)
def test_a_pass_built_in_python_refuses_foreign_words(name: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(NasirError) as caught:
        nasir.get_pass(name)(**options)
    assert str(caught.value).startswith(text)


def test_a_list_is_an_option_of_a_block() -> None:
    known = dict(blocks._objects)

    @blocks.register("wide")
    def wide(make: Maker, x: Port, stride: int, widths: list[int] | None = None) -> Port:
        for width in widths or ():
            x = make.conv(x, width)
        return x

    try:
        draft = Draft()
        x = draft.add("input", (), "x", shape=[4, 8, 8])
        out = build_block(draft, x, "a", {"block": "wide", "options": {"widths": [8, 6]}})
        assert draft.shape(out) == (6, 8, 8)
        with pytest.raises(TypeRuleError, match=r"block 'b' \(wide\): widths: expected a list or nothing, found 8"):
            build_block(draft, x, "b", {"block": "wide", "options": {"widths": 8}})
    finally:
        blocks._objects.clear()
        blocks._objects.update(known)


def test_attributes_of_an_op_without_text_annotations_are_checked() -> None:
    """`from __future__ import annotations` makes them text; a plugin need not have it."""
    known = dict(ops._objects)

    def sharpen(at, x, amount=1.0, window=3):  # type: ignore[no-untyped-def]
        return x

    sharpen.__annotations__ = {"at": At, "x": ValueType, "amount": Annotated[float, Gt(0)], "window": PerAxis}
    sharpen.__annotations__["return"] = ValueType
    try:
        op("sharpen")(sharpen)
        normalize = op_named("sharpen").normalize
        assert normalize({"amount": 2, "window": [5, 5]}, "a") == {"amount": 2.0, "window": 5}
        for value in ("much", -1, math.nan):
            with pytest.raises(TypeRuleError, match="sharpen 'a': amount: "):
                normalize({"amount": value}, "a")
    finally:
        ops._objects.clear()
        ops._objects.update(known)


def test_attributes_that_python_takes_for_equal_are_told_apart() -> None:
    normalize = op_named("conv2d").normalize
    for known, wrong in (((3, 1), (3, True)), ([5, 2], [5, 2.0]), (1, True)):
        assert normalize({"out": 4, "kernel": known}, "a") is normalize({"out": 4, "kernel": known}, "b")
        with pytest.raises(TypeRuleError, match="kernel"):
            normalize({"out": 4, "kernel": wrong}, "a")
    assert normalize({"out": 4, "kernel": [3, 2]}, "a") == normalize({"out": 4, "kernel": (3, 2)}, "a")


def test_an_op_whose_annotations_cannot_be_resolved_is_refused_when_it_is_registered() -> None:
    def unresolved(at: At, x: ValueType, thing: Missing) -> ValueType:
        return x

    with pytest.raises(UsageError, match="the annotation 'Missing' of 'thing' cannot be resolved"):
        op("unresolved")(unresolved)
    assert "unresolved" not in ops.names()


def test_parameters_of_a_function_are_options() -> None:
    def step(make: Any, x: Any, out: Annotated[int, Ge(1)], bias: bool = True, **rest: Any) -> None: ...

    options, open_ended = parameters_of(step)
    assert list(options) == ["out", "bias"] and open_ended
    assert checked(options, {"out": 3, "more": 1}, "block", open_ended) == ({"out": 3, "more": 1}, [])
    _, faults = checked(options, {"bias": 1, "more": 1}, "block")
    assert [path for path, _, _ in faults] == [("bias",), ("more",), ("out",)]


def test_options_of_a_dataclass_are_its_fields_that_are_given() -> None:
    assert list(options_of(Own)) == ["rate", "sizes", "how"] and options_of(Own) is options_of(Own)
    with pytest.raises(TypeError):
        options_of(Nothing)
