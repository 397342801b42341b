"""Building blocks from templates, and blocks defined as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

from nasir.blocks.init import FIXUP
from nasir.blocks.make import Maker
from nasir.blocks.options import checked, words_resolved
from nasir.blocks.scales import BranchScale, scaled, settle_scales
from nasir.blocks.starts import settle_starts
from nasir.blocks.steps import add_step
from nasir.blocks.stochastic_depth import StochasticDepth, stochastic
from nasir.errors import TypeRuleError
from nasir.ir import JSON, Draft, Port
from nasir.ir.regions import closest
from nasir.registry import blocks

Shortcut: TypeAlias = Literal["identity", "projection", "pad", "none"]
SHORTCUTS: tuple[str, ...] = get_args(Shortcut)
DEFINITION = ("branch", "shortcut", "then")


def build_block(
    draft: Draft, x: Port, path: str, template: Mapping[str, JSON], *, stride: int = 1, sums: int | None = None
) -> Port:
    """Add a block below `path` that reads `x`, declare its region, and return its output.

    `template`: {"block": name or definition, "options": {"out": 64, ...}, "init": name}, the last two optional; or a
    bare definition {"branch": [...], "shortcut": ..., "then": [...]}. Without `out` a block keeps its channels;
    without "init" it is initialized as the region around it. `sums`: the residual sums of the network, by which rules
    scale branches; without it those of the draft's base and of the block. Raises UnknownName and TypeRuleError.
    """
    if "branch" in template:
        template = {"block": template}
    unknown = [key for key in template if key not in ("block", "options", "init")]
    if unknown or "block" not in template:
        wrong = f"unknown key {unknown[0]!r}" if unknown else "no key 'block'"
        raise TypeRuleError(f"block '{path}': {wrong} in its template; write {{block: name, options: {{out: 64}}}}")
    block, options = template["block"], dict(template.get("options") or {})
    init = template.get("init") or _inherited(draft, path)
    make = Maker(draft, path, init, sums)
    place = f"block '{path}'"
    if isinstance(block, Mapping):
        y = defined(make, x, stride, definition=block, **checked(defined, options, place, skip=4))
    else:
        builder = blocks.get(block)
        y = builder(make, x, stride, **checked(builder, options, f"{place} ({block})", skip=3))
    settle_scales(make)
    if make.init == FIXUP and draft.base is not None:  # of a network that is built as a whole `starts_of` tells
        settle_starts(draft, path, y)
    before, after = draft.shape(x), draft.shape(y)
    if stride > 1 and before[1:] == after[1:] and max(before[1:], default=1) > 1:
        raise TypeRuleError(f"{place}: puts out {after} at stride {stride}; give one of its steps `stride: stride`")
    kept = {} if make.init == "default" else {"init": make.init}
    draft.region(path, "block", {"block": block, "options": options, **kept})
    return y


def _inherited(draft: Draft, path: str) -> str:
    while path:
        path = path.rpartition(".")[0]
        region = draft.regions.get(path)
        if region is not None and region.template is not None:
            return str(region.template.get("init", "default"))
    return "default"


def defined(
    make: Maker,
    x: Port,
    stride: int,
    definition: Mapping[str, Any],
    out: int = 0,
    branch_scale: BranchScale | None = None,
    stochastic_depth: StochasticDepth = 0.0,
) -> Port:
    """A block given as data: {branch: [steps], shortcut: identity | projection | pad | none, then: [steps]}.

    Steps are as in `network`; their values may be the words in, out and stride, and `out/4` or `out*2` of them.
    out           what the word `out` means; 0: the channels of the input
    branch_scale  what the branch is multiplied by (`nasir.blocks.scales`)
    stochastic_depth  as in the block `basic`, for the branch
    """
    place = f"block '{make.path}'"
    for path, text, remedy in check_definition(definition):
        raise TypeRuleError(f"{place}: {'.'.join(map(str, path))}: {text}; {remedy}")
    channels = make.channels(x)
    words = {"in": channels, "out": out or channels, "stride": stride}
    shortcut = definition.get("shortcut", "identity")
    if shortcut == "none" and branch_scale is not None:
        raise TypeRuleError(f"{place}: shortcut: none leaves no sum to scale a branch for; leave branch_scale away")
    if shortcut == "none" and stochastic_depth:
        raise TypeRuleError(
            f"{place}: stochastic_depth drops a branch, and a block without a shortcut is nothing else; leave it away, "
            "or give the block a shortcut"
        )
    y = scaled(make, _steps(make, x, definition["branch"], words), branch_scale)
    y = close_residual(make, x, stochastic(make, y, stochastic_depth), shortcut, stride)
    return _steps(make, y, definition.get("then") or (), words)


def _steps(make: Maker, x: Port, steps: Any, words: Mapping[str, int]) -> Port:
    for step in steps:
        kind, options = _split(step)
        options = words_resolved(options, words, f"block '{make.path}'")
        label = options.pop("label", None)
        x = add_step(make, x, kind, options, label)
    return x


def _split(step: Any) -> tuple[str, dict[str, Any]]:
    if isinstance(step, str):
        return step, {}
    [(kind, options)] = step.items()
    return kind, dict(options or {})


def check_definition(definition: Any) -> list[tuple[tuple[str | int, ...], str, str]]:
    """(path, what is wrong, remedy) for each fault in the form of a block's definition."""
    if not isinstance(definition, Mapping):
        return [((), f"a block is a mapping, not {definition!r:.40}", "write {branch: [...], shortcut: projection}")]
    faults: list[tuple[tuple[str | int, ...], str, str]] = []
    for key in definition:
        if key not in DEFINITION:
            faults.append(((key,), "unknown key of a block", closest(str(key), DEFINITION)))
    if not definition.get("branch"):
        faults.append((("branch",), "a block needs a branch", "add `branch: [...]` with its steps"))
    shortcut = definition.get("shortcut", "identity")
    if shortcut not in SHORTCUTS:
        faults.append((("shortcut",), f"unknown shortcut {shortcut!r}", closest(str(shortcut), SHORTCUTS)))
    for part in ("branch", "then"):
        steps = definition.get(part) or ()
        if not isinstance(steps, list | tuple):
            faults.append(((part,), f"expected a list of steps, found {steps!r:.40}", "write one step a line: - relu"))
            continue
        for index, step in enumerate(steps):
            fine = isinstance(step, str) or (isinstance(step, Mapping) and len(step) == 1)
            if fine and isinstance(step, Mapping):
                [options] = step.values()
                fine = options is None or isinstance(options, Mapping)
            if not fine:
                faults.append(((part, index), f"expected one step, found {step!r:.40}", "write {conv: {out: out}}"))
    return faults


def close_residual(make: Maker, x: Port, y: Port, shortcut: str, stride: int) -> Port:
    """The branch `y` of a block joined with the shortcut from `x`; `y` itself for "none"."""
    if shortcut == "none":
        return y
    return make.node("add", (y, shortcut_of(make, x, make.shape(y), shortcut, stride)), "add")


def shortcut_of(make: Maker, x: Port, wanted: tuple[int, ...], shortcut: str, stride: int) -> Port:
    """`x` in the shape `wanted`: itself where it fits, else projected ("downsample": 1x1 convolution and norm, option
    B of He et al. 2015) or subsampled and padded with zero channels (option A). Raises TypeRuleError."""
    shape = make.shape(x)
    if shape == wanted:
        return x
    place = f"block '{make.path}'"
    if shortcut == "projection" and len(shape) == 1:
        y = make.norm(make.node("linear", x, "downsample.0", out=wanted[0], bias=False), "downsample.1")
    elif shortcut == "projection":
        y = make.conv(x, wanted[0], "downsample.0", kernel=1, stride=stride, padding=0)
        y = make.norm(y, "downsample.1")
    elif shortcut == "pad":
        if wanted[0] < shape[0]:
            raise TypeRuleError(f"{place}: cannot pad {shape[0]} channels to {wanted[0]}; use shortcut: projection")
        y = make.node("subsample", x, "downsample.subsample", stride=stride) if stride > 1 else x
        if wanted[0] > shape[0]:
            y = make.node("pad_channels", y, "downsample.pad", after=wanted[0] - shape[0])
    else:
        raise TypeRuleError(
            f"{place}: its branch turns {shape} into {wanted}, an identity shortcut cannot; use shortcut: projection"
        )
    if make.shape(y) != wanted:
        raise TypeRuleError(
            f"{place}: its branch gives {wanted}, its shortcut at stride {stride} {make.shape(y)}; "
            "let the strides of the branch multiply to that of the block"
        )
    return y
