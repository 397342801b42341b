"""An op is one typed function: input types and attributes in; output types, weight slots and spaces out.

    @op("relu", family="activation", pointwise=rectified, unchanged="nonnegative", nonnegative="always")
    def relu(at: At, x: ValueType) -> ValueType: ...

Parameters after the input types are the node's attributes: their annotations check and normalize values, their
defaults fill what a user leaves out. A third-party op registers in the same way, or by entry point (`nasir.ops`).

Passes and analyses never ask for an op's name: they ask for the facts that it states (`OpDef`), and for the roles of
the axes of its weights (`nasir.ir.types.Slot`).
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias, get_args

from annotated_types import MinLen

from nasir.errors import TypeRuleError, UsageError
from nasir.ir.types import JSON, Mode, ValueType
from nasir.options import Canonical, Option, checked, declared, sentence
from nasir.options.ranges import Count, Whole
from nasir.registry import ops

Rule: TypeAlias = Callable[..., ValueType | tuple[ValueType, ...]]
Macs: TypeAlias = Callable[[Mapping[str, JSON], tuple[ValueType, ...], ValueType], int]
Unordered: TypeAlias = Callable[[Mapping[str, JSON], tuple[ValueType, ...], ValueType], tuple[str, str] | None]
Pointwise: TypeAlias = Callable[..., Any]
Even: TypeAlias = Callable[[Mapping[str, JSON]], bool]
Averages: TypeAlias = Callable[[Mapping[str, JSON]], bool]
Reads: TypeAlias = Callable[[Mapping[str, JSON]], tuple[Mode | None, ...]]
Family: TypeAlias = Literal[
    "input",
    "weighted",
    "standardized",
    "norm",
    "activation",
    "scale",
    "passive",
    "pad",
    "pool",
    "shape",
    "shift",
    "sum",
    "mean",
    "product",
    "elementwise",
    "concat",
    "split",
    "embedding",
    "attention",
    "ensemble",
    "route",
    "weight",
    "opaque",
    "mode",
    "assign",
]
Sign: TypeAlias = Literal["always", "keeps"]
Channels: TypeAlias = Literal["alone", "moves", "groups"]
Drops: TypeAlias = Literal["elements", "channels", "samples"]
Unchanged: TypeAlias = Literal["zero", "nonnegative", "all"]
Taken: TypeAlias = Literal["integers", "unbatched", "rows"]


def shortest(value: Any) -> Any:
    """Equal architectures have equal attributes: one number where all are the same."""
    return value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value


PerAxis: TypeAlias = Annotated[int | Annotated[tuple[int, ...], MinLen(1)], Canonical(shortest)]
"""One whole number, or one for each axis that a window slides along: height and width of an image."""
Sizes: TypeAlias = Annotated[Count | Annotated[tuple[Count, ...], MinLen(1)], Canonical(shortest)]
"""The same of at least 1."""
Pads: TypeAlias = Annotated[Whole | Annotated[tuple[Whole, ...], MinLen(1)], Canonical(shortest)]
"""The same of at least 0."""
SHARED = 10_000  # attribute sets an op remembers


@dataclass(frozen=True, slots=True)
class OpDef:
    """A registered op: its typed rule, and the facts that passes and analyses ask for.

    Every fact has a safe default, which is to say nothing: such an op is opaque, networks with it stay correct, but
    passes leave it alone where they would have to know more.

    `family`: what kind of op it is (`UNARY` ones have one input).
        input       puts out what the network is given
        weighted    sums of products of its input with one kernel (a weight with a `read` and a `write` axis), plus a
                    bias where there is one (tagged "bias"). Attribute `out`: channels it puts out; `kernel`, `stride`,
                    `padding`, `dilation`, `groups`, `bias`, where it has them, mean what they do for conv2d
        standardized  the same with a kernel that is made of its weights by standardization: what the weights are
                    multiplied by does nothing, and each unit depends on all that are read (its rule says so, by
                    `at.mix`). A weight per unit, which is no kernel, multiplies what it puts out
        norm        normalizes, then multiplies by a weight and adds one, per channel (both tagged "norm", the second
                    also "bias"); or is what stays of such a norm, which does only the latter. What it subtracts in
                    evaluation, if it is of the past, is its buffer `running_mean`, and `running_var` plus the attribute
                    `eps` is the square of what it divides by.
                    With an attribute `momentum` it normalizes by the numbers of several places or samples in training
        activation  a nonlinearity
        scale       a product with one number: a weight, an attribute, or the reciprocal of one
        shift       a sum with one number
        passive     lets through what comes in, in evaluation
        pad         zero channels (`before` and `after`) around those of the input
        pool        maxima or means over windows of an image
        shape       places picked, averaged or put in another order: flatten, tokens, a global mean
        sum, mean, product   of inputs of one shape, element by element
        elementwise another function of inputs of one shape, element by element
        concat      inputs one after another along the channels; or along another axis, or a new one, which the
                    attribute `axis` names
        split       consecutive parts of the channels, or of another axis, one output each; or one such part
        embedding   learned vectors looked up by number, added to a sequence, or put before it
        attention   places of a sequence weigh one another
        ensemble    the mean prediction of branches; attribute `average`: probabilities or logits
        route       the sum of its inputs from the second on, each times its share, which the first one holds; those
                    whose share is 0 need not be computed in evaluation
        weight      puts out a weight, which functions use
        opaque      a call of somebody's function or module, of which nothing is known
        mode        the input that is read in the mode in which the network runs (`reads`), nothing where there is none
        assign      its second input, which the buffer that its first one puts out holds when the network has run
    `channels`: how channels are kept apart.
        alone       each channel, with the entries of the weights that belong to it, for itself, and in order: of inputs
                    whose channels lie one after another the results lie one after another
        moves       channels may change their place, but what one holds depends on no other that could be removed
        groups      consecutive groups of channels as by "alone"; attribute `groups` counts them
    `pointwise`: f(x, **attributes) of a float64 array, element by element, where the op is such a function in
    evaluation; of an "elementwise" op f(x, y, **attributes). It makes `channels` "alone".
    `unchanged`: what comes out as it came in, element by element: "zero", every "nonnegative" number, or "all".
    `nonnegative`: "always" when the output is >= 0 whatever comes in, "keeps" when it is if all inputs are.
    `mixes`: it normalizes over the channel axis, so resizing that axis is never exact. (Of another axis its rule says
    so, by `at.mix`.)
    `random`: it draws random numbers in training. `drops`: what it then sets to zero with a probability, its attribute
    `p`: each of the "elements", all of each of the "channels", or all that a sample holds ("samples").
    `view`: in evaluation it only renames what is in memory.
    `even`: of a weighted op over windows, given its attributes: whether channels that hold one number all over give
    channels that do, as without zeros at the borders.
    `averages`: given its attributes, whether it puts out means over places of its input.
    `constant`: which parts of its outputs are constant (`nasir.ops.constants`), where family and `pointwise` do not
    say it.
    `takes`: what its inputs may be beside floating-point numbers of each sample: "integers", numbers of any other
    type; "unbatched", values without a batch axis, which are the same for all samples; "rows", values with different
    numbers of rows for each sample, of which its rule makes what it puts out.
    `reads`: of ops of family "mode": in which mode each input is read, given the attributes; None: in both.
    `later`: attributes that graphs were written without once; such a one at its default is left out of digests and of
    stored graphs, which so stay what they were.
    `macs` counts multiply-accumulates for one row of the batch, in a `foreign` op for one sample; see `macs_of`.
    `unordered` says where the gradient can only be summed up in no fixed order on a CUDA device, so that equal steps
    differ in their last bits: for attributes, input types and output type a reason that goes on after "'label'", and
    the remedy, or None where there is a fixed order (without it: always).
    `several`: the rule returns a tuple of outputs.
    """

    name: str
    rule: Rule
    attrs: Mapping[str, Option]
    arity: tuple[int, int | None]
    nonnegative: Sign | None = None
    mixes: bool = False
    macs: Macs | None = None
    several: bool = False
    doc: str = ""
    family: Family | None = None
    channels: Channels | None = None
    pointwise: Pointwise | None = None
    unchanged: Unchanged | None = None
    random: bool = False
    drops: Drops | None = None
    view: bool = False
    even: Even | None = None
    averages: Averages | None = None
    constant: Callable[..., Any] | None = None
    unordered: Unordered | None = None
    reads: Reads | None = None
    takes: frozenset[Taken] = frozenset()
    later: frozenset[str] = frozenset()
    _known: dict[Any, dict[str, JSON]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def activates(self) -> bool:
        """Whether it is a nonlinearity that acts on each channel alone."""
        return self.family == "activation" and self.channels == "alone"

    @property
    def rectifies(self) -> bool:
        """Whether it is max(x, 0) or similar: what passes is unchanged, and no output is negative."""
        return self.activates and self.nonnegative == "always" and self.unchanged == "nonnegative"

    @property
    def dead_at_zero(self) -> bool:
        """Whether 0, which it keeps, is its smallest output: no gradient passes there."""
        return self.nonnegative == "always" and self.unchanged is not None

    @property
    def convolves(self) -> bool:
        """Whether it is a layer with a kernel: sums of products of its input."""
        return self.family in ("weighted", "standardized")

    @property
    def adds(self) -> bool:
        """Whether it is a sum of its inputs, or their mean."""
        return self.family in ("sum", "mean")

    @property
    def unifies(self) -> bool:
        """Whether it joins inputs of one shape element by element."""
        return self.family in ("sum", "mean", "product")

    @property
    def foreign(self) -> bool:
        """Whether its nodes are parts of an imported module, kept as they are."""
        return self.family in ("opaque", "weight")

    @property
    def separates(self) -> bool:
        """Whether channels can be removed without changing those that stay."""
        return self.channels in ("alone", "moves")

    def macs_of(self, attrs: Mapping[str, JSON], inputs: tuple[ValueType, ...], out: ValueType) -> int:
        """Multiply-accumulates for one sample; 0 for an op that counts none."""
        rows = 1 if self.foreign else max(out.batch, 1)
        return 0 if self.macs is None else self.macs(attrs, inputs, out) * rows

    def stated(self, attrs: Mapping[str, JSON]) -> Mapping[str, JSON]:
        """The (normalized) attributes without those of `later` that are at their defaults."""
        if not self.later:
            return attrs
        left_out = {name for name in self.later if attrs[name] == self.attrs[name].default}
        return {name: value for name, value in attrs.items() if name not in left_out}

    def normalize(self, attrs: Mapping[str, JSON], label: str) -> dict[str, JSON]:
        """Attributes in declaration order, defaults filled, values in their normal form; raises TypeRuleError."""
        # a network repeats few attribute sets: nodes share one dict of each; the types keep 1, 1.0 and True apart
        try:
            known = self._known.get((*attrs.items(), *map(type, attrs.values())))
        except TypeError:  # a list among the values
            known = None
        return self._shared(attrs, label) if known is None else known

    def _shared(self, attrs: Mapping[str, JSON], label: str) -> dict[str, JSON]:
        """The dict of attributes that are new, or that hold lists, the types of whose items matter too."""
        kinds = (*map(type, attrs.values()),)
        listed = list in kinds or tuple in kinds
        key: Any = (*attrs, *map(_distinct, attrs.values())) if listed else (*attrs.items(), *kinds)
        try:
            known = self._known.get(key)
        except TypeError:  # a value that cannot be a key, such as a mapping
            return self._normalize(attrs, label)
        if known is None:
            known = self._normalize(attrs, label)
            if len(self._known) < SHARED:
                self._known[key] = known
        return known

    def _normalize(self, attrs: Mapping[str, JSON], label: str) -> dict[str, JSON]:
        made, faults = checked(self.attrs, attrs, "op")
        if faults:
            raise TypeRuleError(sentence(f"{self.name} '{label}'", *faults[0]))
        return {name: made.get(name, option.default) for name, option in self.attrs.items()}


def _distinct(value: JSON) -> Any:
    """A key that differs wherever values differ in a type: [1] and [True], also inside lists."""
    if isinstance(value, list | tuple):
        return (list, *map(_distinct, value))
    return type(value), value


def op(
    name: str,
    *,
    family: Family | None = None,
    channels: Channels | None = None,
    pointwise: Pointwise | None = None,
    unchanged: Unchanged | None = None,
    nonnegative: Sign | None = None,
    mixes: bool = False,
    random: bool = False,
    drops: Drops | None = None,
    view: bool = False,
    even: Even | None = None,
    averages: Averages | None = None,
    constant: Callable[..., Any] | None = None,
    macs: Macs | None = None,
    unordered: Unordered | None = None,
    reads: Reads | None = None,
    takes: Iterable[Taken] = (),
    later: Iterable[str] = (),
) -> Callable[[Rule], Rule]:
    """Register a typed function as an op; see `OpDef` for the facts.

    Its parameters that are no `ValueType` are its attributes, checked by their annotations (`nasir.options`). Raises
    UsageError for facts that cannot be, and for annotations that cannot be resolved.
    """

    def add(rule: Rule) -> Rule:
        parameters = list(inspect.signature(rule).parameters.values())[1:]
        values = [p for p in parameters if "ValueType" in str(p.annotation)]
        variadic = any(p.kind is inspect.Parameter.VAR_POSITIONAL for p in values)
        made = OpDef(
            name=name,
            rule=rule,
            attrs=declared(rule, [p for p in parameters if p not in values]),
            arity=(1 if variadic else len(values), None if variadic else len(values)),
            nonnegative=nonnegative,
            mixes=mixes,
            macs=macs,
            several="tuple" in str(inspect.signature(rule).return_annotation),
            doc=inspect.getdoc(rule) or "",
            family=family,
            channels="alone" if pointwise is not None and channels is None else channels,
            pointwise=pointwise,
            unchanged=unchanged,
            random=random or drops is not None,
            drops=drops,
            view=view,
            even=even,
            averages=averages,
            constant=constant,
            unordered=unordered,
            reads=reads,
            takes=frozenset(takes),
            later=frozenset(later),
        )
        fault = _fault(made)
        if fault:
            raise UsageError(f"op {name!r}: {fault}")
        ops.register(name)(made)
        return rule

    return add


WORDS: Mapping[str, tuple[str, ...]] = {
    "family": get_args(Family),
    "channels": get_args(Channels),
    "drops": get_args(Drops),
    "unchanged": get_args(Unchanged),
    "nonnegative": get_args(Sign),
}
UNARY = frozenset(
    {"weighted", "standardized", "norm", "activation", "scale", "shift", "passive", "pad", "pool", "shape", "split"}
)
"""Families of ops with one input."""
ATTRS: Mapping[str | None, tuple[str, ...]] = {
    "weighted": ("out",),
    "standardized": ("out",),
    "groups": ("groups",),
    "pad": ("before", "after"),
    "ensemble": ("average",),
}
"""The attributes that ops of a family, or with a way of treating channels, must have."""


def _fault(made: OpDef) -> str:
    """What contradicts itself in the facts of an op, and the remedy; "" where nothing does."""
    for fact, words in WORDS.items():
        value = getattr(made, fact)
        if value is not None and value not in words:
            close = difflib.get_close_matches(str(value), words, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it is one of {', '.join(words)}, or not given"
            return f"{fact}={value!r} is not known; {hint}"
    for taken in made.takes:
        if taken not in get_args(Taken):
            return f"takes={taken!r} is not known; name some of {', '.join(get_args(Taken))}"
    for attr in made.later:
        if attr not in made.attrs or made.attrs[attr].required:
            return f"later={attr!r} is no attribute with a default; remove it, or give the attribute one"
    if made.pointwise is not None and (made.channels != "alone" or made.mixes):
        what = "mixes" if made.mixes else f"channels={made.channels!r}"
        return f"a pointwise function acts on each channel alone; remove {what}"
    if made.mixes and made.separates:
        return f"what mixes channels does not keep them apart; remove channels={made.channels!r}"
    alone = made.pointwise is not None and made.family != "elementwise"
    if (made.family in UNARY or alone) and made.arity != (1, 1):
        what = "a pointwise op" if alone else f"an op of family {made.family!r}"
        return f"{what} has one input; it is declared with {'any number' if made.arity[1] is None else made.arity[0]}"
    if (made.family == "mode") != (made.reads is not None):
        return "an op of family 'mode', and no other, says in which mode it reads its inputs; give it `reads`"
    for word in (made.family, made.channels):
        missing = [attr for attr in ATTRS.get(word, ()) if attr not in made.attrs]
        if missing:
            return f"{word!r} ops have an attribute {missing[0]!r}; add it to the parameters"
    return ""


def op_named(name: str) -> OpDef:
    """The op called `name`; raises UnknownName."""
    definition = loaded.get(name)
    if definition is None:
        thing = ops.get(name)
        # an entry point may name the typed function; importing its module registered the OpDef under the name
        definition = thing if isinstance(thing, OpDef) else ops.get(name)
        if not isinstance(definition, OpDef):
            raise TypeRuleError(
                f"op {name!r}: the entry point gave {thing!r}; decorate the function with @op({name!r})"
            )
        loaded[name] = definition
    return definition


loaded: dict[str, OpDef] = {}  # the ops that were asked for, by name


def per_axis(value: PerAxis, axes: int, name: str = "an attribute") -> tuple[int, ...]:
    """An attribute that may be one number, as one for each of so many axes; ValueError where it has other many."""
    if isinstance(value, int):
        return (value,) * axes
    if len(value) != axes:
        raise ValueError(f"{name} {list(value)} holds {len(value)} numbers, for {axes} axes beside the channels")
    return tuple(value)
