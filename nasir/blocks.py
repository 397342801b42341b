"""Building blocks: the steps a network is written in, and the block templates that stages repeat.

A template is JSON data, {"block": name or definition, "options": {"out": 64, ...}, "init": name}: it is kept in the
graph's regions, so that a pass can build one more block of a stage long after the spec is gone. Third parties add
blocks with `@block("name")` or the entry point group `nasir.blocks`.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from nasir.errors import Decline, GraphError
from nasir.ir import JSON, Draft, Fill, Port
from nasir.registry import blocks

Builder: TypeAlias = Callable[..., Port]
Template: TypeAlias = Mapping[str, JSON]

# which weights a named initializer of a spec overrides, by op and slot; the rest keeps the op's own
INITIALIZERS: Mapping[str, Mapping[tuple[str, str], Fill]] = {
    "default": {},  # torch's
    "he_normal": {("conv2d", "weight"): Fill("kaiming_normal", {"mode": "fan_out"})},  # as torchvision's ResNets
    "glorot_uniform": {  # as Keras
        ("conv2d", "weight"): Fill("xavier_uniform"),
        ("conv2d", "bias"): Fill("zeros"),
        ("linear", "weight"): Fill("xavier_uniform"),
        ("linear", "bias"): Fill("zeros"),
    },
}


def block(name: str) -> Callable[[Builder], Builder]:
    """Register a builder `f(draft, x, path, *, out, stride=1, **options) -> Port` as the block called `name`."""
    return blocks.register(name)


def build_block(draft: Draft, x: Port, path: str, template: Template, *, stride: int = 1) -> Port:
    """Add one block below `path` that reads `x`, declare its region, and return its output.

    Raises GraphError for an unknown option or an option out of range, UnknownName for an unknown block.
    """
    unknown = set(template) - {"block", "options", "init"}
    if unknown or "block" not in template:
        raise GraphError(f"block template {dict(template)!r}: its keys are block, options and init")
    kind, options = template["block"], dict(template.get("options") or {})
    first = draft.minted
    if isinstance(kind, Mapping):
        out = _defined(draft, x, path, kind, options, stride)
    else:
        out = _registered(draft, x, path, str(kind), options, stride)
    apply_initializer(draft, range(first, draft.minted), str(template.get("init") or "default"))
    draft.region(path, "block", dict(template))
    return out


def apply_initializer(draft: Draft, nodes: Sequence[int], name: str) -> None:
    """Fill the weights of new nodes by a named initializer; raises GraphError for an unknown one."""
    if name not in INITIALIZERS:
        raise GraphError(f"unknown initializer {name!r}; known: {', '.join(INITIALIZERS)}")
    for node_id in nodes:
        for (op, slot), rule in INITIALIZERS[name].items():
            node = draft.nodes[node_id]
            if node.op == op and (slot != "bias" or node.attrs["bias"]):
                draft.fill(node_id, slot, rule.rule, **rule.args)


def _registered(draft: Draft, x: Port, path: str, name: str, options: dict[str, JSON], stride: int) -> Port:
    builder: Builder = blocks.get(name)
    takes = {p.name for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY}
    wrong = sorted(set(options) - takes)
    if wrong:
        raise GraphError(f"block '{name}' has no option {wrong[0]!r}; it takes {', '.join(sorted(takes - {'stride'}))}")
    if "out" in takes and not (type(options.get("out")) is int and options["out"] > 0):
        raise GraphError(f"block '{name}': out must be a whole number of at least 1, not {options.get('out')!r}")
    return builder(draft, x, path, stride=stride, **options)


# -- steps


class Steps:
    """Applies steps one after another, numbering the labels of nodes that are not named."""

    def __init__(self, draft: Draft, prefix: str = "") -> None:
        self.draft = draft
        self.prefix = f"{prefix}." if prefix else ""
        self.counts: dict[str, int] = {}

    def label(self, kind: str, wanted: str | None = None) -> str:
        """`wanted`, or `kind` with its number."""
        if wanted is not None:
            return self.prefix + wanted
        self.counts[kind] = self.counts.get(kind, 0) + 1
        return f"{self.prefix}{kind}{self.counts[kind]}"

    def apply(self, x: Port, kind: str, options: Mapping[str, JSON], label: str | None = None) -> Port:
        """One step: a composite of this module, a registered block, or a registered op."""
        given = {key: value for key, value in options.items() if value is not None}
        if kind in ("conv_bn_relu", "conv_bn"):
            return self._conv_bn(x, kind == "conv_bn_relu", given, label)
        if kind == "conv":
            return self.draft.add("conv2d", x, self.label("conv", label), **_conv_attrs({"bias": True, **given}))
        if kind == "classifier":
            return self._classifier(x, given, label)
        if kind in blocks.names():
            stride = given.pop("stride", 1)
            path = self.prefix.rstrip(".") + ("." if self.prefix else "") + (label or self.label(kind)[len(self.prefix):])
            return build_block(self.draft, x, path, {"block": kind, "options": given}, stride=stride)
        return self.draft.add(kind, x, self.label(kind, label), **given)

    def _conv_bn(self, x: Port, relu: bool, options: Mapping[str, JSON], label: str | None) -> Port:
        number = self.label("conv") if label is None else ""
        ending = number[len(self.prefix) + 4 :]
        names = [
            f"{self.prefix}{kind}{ending}" if label is None else f"{self.prefix}{label}.{kind}"
            for kind in ("conv", "bn", "relu")
        ]
        x = self.draft.add("conv2d", x, names[0], **_conv_attrs({"bias": False, **options}))
        x = self.draft.add("batch_norm", x, names[1])
        return self.draft.add("relu", x, names[2]) if relu else x

    def _classifier(self, x: Port, options: Mapping[str, JSON], label: str | None) -> Port:
        if len(self.draft.shape(x)) == 3:
            if options.get("dropout"):
                # before the pooling, which averages the noise it adds away (variance smaller by height x width)
                x = self.draft.add("dropout", x, f"{self.prefix}head_dropout", p=options["dropout"])
            x = self.draft.add("global_avg_pool", x, f"{self.prefix}avgpool")
        elif options.get("dropout"):
            x = self.draft.add("dropout", x, f"{self.prefix}head_dropout", p=options["dropout"])
        return self.draft.add("linear", x, self.prefix + (label or "fc"), out=options["classes"])


def _conv_attrs(options: Mapping[str, JSON]) -> dict[str, JSON]:
    """Attributes of conv2d from those of a step: kernel 3 by default, padding that keeps the size at stride 1."""
    attrs = {"kernel": 3, **options}
    kernel = attrs["kernel"]
    attrs.setdefault("padding", kernel // 2 if isinstance(kernel, int) else [k // 2 for k in kernel])
    return attrs


# -- blocks written in a spec


def _defined(
    draft: Draft, x: Port, path: str, definition: Mapping[str, JSON], options: Mapping[str, JSON], stride: int
) -> Port:
    """A block given as {branch: [steps], shortcut: identity | projection | pad | none, then: [steps]}.

    The values of steps may use the words in, out and stride, and out/4 or out*2: whole numbers.
    """
    wrong = sorted(set(definition) - {"branch", "shortcut", "then"})
    if wrong or not definition.get("branch"):
        raise GraphError(f"block at '{path}': a definition has the keys branch, shortcut and then (found {wrong})")
    words = {"in": draft.shape(x)[0], "stride": stride, **{k: v for k, v in options.items() if isinstance(v, int)}}
    steps = Steps(draft, path)
    y = x
    for step in definition["branch"]:
        y = steps.apply(y, *_step(step, words))
    kind = definition.get("shortcut", "projection")
    if kind != "none":
        y = draft.add("add", (y, shortcut(draft, x, path, draft.shape(y), stride, kind)), f"{path}.add")
    for step in definition.get("then") or ():
        y = steps.apply(y, *_step(step, words))
    return y


def _step(step: JSON, words: Mapping[str, int]) -> tuple[str, dict[str, JSON], str | None]:
    """(kind, options, label) of one written step."""
    if isinstance(step, str):
        return step, {}, None
    if not isinstance(step, Mapping) or len(step) != 1:
        raise GraphError(f"a step is a name or a mapping with one key, not {step!r}")
    kind, options = next(iter(step.items()))
    values = {key: _value(value, words) for key, value in (options or {}).items()}
    label = values.pop("label", None)
    return str(kind), values, label


_WORD = re.compile(r"([a-z_]+)(?:([*/])(\d+))?")


def _value(value: JSON, words: Mapping[str, int]) -> JSON:
    found = _WORD.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[1] not in words:
        return value
    number = words[found[1]]
    if found[2] == "*":
        return number * int(found[3])
    if found[2] == "/":
        divisor = int(found[3])
        if divisor == 0 or number % divisor:
            raise GraphError(f"{value!r}: {number} is not divisible by {divisor}; choose a width that is")
        return number // divisor
    return number


# -- shortcuts


def shortcut(draft: Draft, x: Port, path: str, shape: tuple[int, ...], stride: int, kind: str = "projection") -> Port:
    """What is added to a branch of `shape`: `x` itself where it fits, else by `kind`.

    projection: 1x1 convolution and batch norm (option B); pad: subsampling and zero channels (option A);
    identity: refuse. (He et al. 2015, section 3.3.)
    """
    if draft.shape(x) == shape:
        return x
    if kind == "identity":
        raise Decline(f"block '{path}': an identity shortcut cannot turn {draft.shape(x)} into {shape}")
    if kind == "projection":
        y = draft.add("conv2d", x, f"{path}.downsample.0", out=shape[0], kernel=1, stride=stride)
        return draft.add("batch_norm", y, f"{path}.downsample.1")
    if kind != "pad":
        raise GraphError(f"block '{path}': shortcut must be projection, pad, identity or none, not {kind!r}")
    if stride != 1:
        x = draft.add("subsample", x, f"{path}.subsample", stride=stride)
    missing = shape[0] - draft.shape(x)[0]
    if missing < 0:
        raise GraphError(f"block '{path}': option-A shortcuts only add channels, this one would lose {-missing}")
    return draft.add("pad_channels", x, f"{path}.pad", after=missing) if missing else x


def _conv(draft: Draft, x: Port, label: str, out: int, kernel: int, stride: int = 1, bias: bool = False) -> Port:
    return draft.add("conv2d", x, label, out=out, kernel=kernel, stride=stride, padding=kernel // 2, bias=bias)


def _scaled(draft: Draft, y: Port, path: str, branch_scale: float | None, learnable: bool) -> Port:
    if branch_scale is None:
        return y
    return draft.add("scale", y, f"{path}.scale", value=branch_scale, learnable=learnable)


# -- the blocks that ship


@block("basic")
def basic(
    draft: Draft,
    x: Port,
    path: str,
    *,
    out: int,
    stride: int = 1,
    shortcut_kind: str = "projection",
    branch_scale: float | None = None,
    learnable_scale: bool = False,
) -> Port:
    """conv3x3 - BN - ReLU - conv3x3 - BN, plus shortcut, ReLU; torchvision's names. `branch_scale` multiplies the branch."""
    y = _conv(draft, x, f"{path}.conv1", out, 3, stride)
    y = draft.add("batch_norm", y, f"{path}.bn1")
    y = draft.add("relu", y, f"{path}.relu")
    y = _conv(draft, y, f"{path}.conv2", out, 3)
    y = draft.add("batch_norm", y, f"{path}.bn2")
    y = _scaled(draft, y, path, branch_scale, learnable_scale)
    y = draft.add("add", (y, shortcut(draft, x, path, draft.shape(y), stride, shortcut_kind)), f"{path}.add")
    return draft.add("relu", y, f"{path}.relu_out")


@block("bottleneck")
def bottleneck(
    draft: Draft,
    x: Port,
    path: str,
    *,
    out: int,
    stride: int = 1,
    expansion: int = 4,
    shortcut_kind: str = "projection",
) -> Port:
    """1x1 - 3x3 - 1x1 to expansion * `out` channels, stride on the 3x3 ("v1.5"), plus shortcut; torchvision's names."""
    y = x
    for number, (kernel, width, step) in enumerate(((1, out, 1), (3, out, stride), (1, out * expansion, 1)), start=1):
        y = _conv(draft, y, f"{path}.conv{number}", width, kernel, step)
        y = draft.add("batch_norm", y, f"{path}.bn{number}")
        if number < 3:
            y = draft.add("relu", y, f"{path}.relu{number}")
    y = draft.add("add", (y, shortcut(draft, x, path, draft.shape(y), stride, shortcut_kind)), f"{path}.add")
    return draft.add("relu", y, f"{path}.relu_out")


@block("plain")
def plain(draft: Draft, x: Port, path: str, *, out: int, stride: int = 1, norm: bool = True) -> Port:
    """conv3x3 - BN - ReLU without a shortcut; without `norm` the convolution has a bias."""
    y = _conv(draft, x, f"{path}.conv1", out, 3, stride, bias=not norm)
    if norm:
        y = draft.add("batch_norm", y, f"{path}.bn1")
    return draft.add("relu", y, f"{path}.relu")


@block("preact_basic")
def preact_basic(
    draft: Draft,
    x: Port,
    path: str,
    *,
    out: int,
    stride: int = 1,
    dropout: float = 0.0,
    shortcut_kind: str = "projection",
    branch_scale: float | None = None,
    learnable_scale: bool = True,
    norm: bool = True,
) -> Port:
    """BN - ReLU - conv3x3, twice, plus shortcut, nothing after the sum (He et al. 2016).

    `dropout` acts between the last ReLU and the last convolution, never before a norm (Kim et al. 2023). With
    `branch_scale` 0 and `norm` false it is SkipInit (De & Smith 2020); convolutions then have biases.
    """
    y = x
    for number, step in ((1, stride), (2, 1)):
        if norm:
            y = draft.add("batch_norm", y, f"{path}.bn{number}")
        y = draft.add("relu", y, f"{path}.relu{number}")
        if number == 2 and dropout:
            y = draft.add("dropout", y, f"{path}.dropout", p=dropout)
        y = _conv(draft, y, f"{path}.conv{number}", out, 3, step, bias=not norm)
    y = _scaled(draft, y, path, branch_scale, learnable_scale)
    return draft.add("add", (y, shortcut(draft, x, path, draft.shape(y), stride, shortcut_kind)), f"{path}.add")
