"""A spec's network as a graph, and where the weights of the untrained network come from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os.path import isfile
from typing import Any

from nasir.analysis.residuals import residual_depth
from nasir.blocks import (
    INITS,
    Maker,
    add_step,
    build_block,
    check_definition,
    made_with,
    own_init,
    space_by_depth,
    starts_of,
)
from nasir.blocks.scales import rule_of
from nasir.blocks.steps import STEPS
from nasir.errors import GraphError, UnknownName
from nasir.ir import Draft, Graph, Port
from nasir.ir.source import Key
from nasir.options import Path, suggestion
from nasir.registry import blocks, ops
from nasir.spec import presets
from nasir.spec.determinism import check_determinism
from nasir.spec.given import Given
from nasir.spec.imported import NotImported, code_name, made_by_code
from nasir.spec.inherit import inherited
from nasir.spec.labels import check_labels
from nasir.spec.metrics import check_metrics
from nasir.spec.model import Spec
from nasir.spec.model_source import ImportedNetwork, RunNetwork, is_file
from nasir.spec.read import load_spec
from nasir.spec.shifts import note_shifts
from nasir.spec.teachers import check_teachers
from nasir.training.modules import ImportedModule
from nasir.transfer import Source, TransferPlan

STAGE_KEYS = ("name", "block", "out", "depth", "stride", "label")


@dataclass(frozen=True, slots=True)
class _Step:
    """One step, and the path of its options in the spec."""

    kind: str
    options: Mapping[str, Any]
    label: str | None
    path: Path


def build(
    spec: Spec | Given, note: Callable[[str], None] | None = None, *, module: ImportedModule | None = None
) -> Graph:
    """The first network of a spec, or of what `load_spec` takes for one: a path or YAML text.

    Raises SpecError that names the line of a step that does not fit. `note` hears remarks that are no errors. Runs no
    code but nasir's: a network that only other code can make is that of the `module` that was imported for the spec
    (`nasir.spec.imported`); NotImported without it.
    """
    spec = load_spec(spec)
    if isinstance(spec.network, RunNetwork):
        return _checked(spec, inherited(spec).graph, note)
    weights = None if isinstance(spec.network, tuple) else spec.network.weights
    if weights is not None and is_file(weights) and not isfile(weights):
        raise spec.problem(("network", "weights"), f"no file {weights}", "paths are relative to the spec")
    if made_by_code(spec):
        if module is None:
            text = f"the code that makes it is not run just to look at it: {code_name(spec)}"
            raise NotImported(spec.problem(("network",), text, "run the spec, or import it by `--import`").problems)
        return _checked(spec, module.graph, note)
    init = init_of(spec)
    for name, definition in spec.blocks.items():
        if name in STEPS or name in ops.names():
            raise spec.problem(("blocks", name), f"{name!r} is a step already", "give the block another name")
        for path, text, remedy in check_definition(definition):
            raise spec.problem(("blocks", name, *path), text, remedy)
    graph, made = _built(spec, init, sums=1)
    if any(rule_of(block) for block in graph.blocks):  # all of it has to be there before its residual sums are counted
        graph, made = _built(spec, init, sums=residual_depth(graph))
    return _checked(spec, graph, note, made.__getitem__)


def _built(spec: Spec, init: str, sums: int) -> tuple[Graph, list[Path]]:
    """The network of a spec's steps, whose rules for branches take it to have so many residual sums; by node id, the
    path of the step that made it."""
    draft = Draft()
    make = Maker(draft, init=init, sums=sums)
    x = draft.add("input", (), "x", shape=list(spec.input.shape))
    step = None
    made: list[Path] = [("input",)]
    for step in _steps(spec):
        try:
            x = _add(spec, make, x, step)
            draft.shape(x)
        except (GraphError, UnknownName) as error:
            raise spec.problem(step.path, str(error)) from error
        made += [step.path] * (draft.minted - len(made))
    if len(draft.shape(x)) != 1 and step is not None:
        text = f"the network puts out an image {draft.shape(x)}, not one number a class"
        raise spec.problem(step.path, text, "end it with `- classifier: {classes: 10}`")
    draft.output(x)
    space_by_depth(draft)
    try:
        return draft.commit(), made
    except GraphError as error:
        raise spec.problem(("network",), str(error)) from error


def _checked(
    spec: Spec,
    graph: Graph,
    note: Callable[[str], None] | None,
    path_of: Callable[[int], Path] = lambda node: ("network",),
) -> Graph:
    """The network, whose labels, classes and nodes go with the rest of the spec; `path_of`: what made a node."""
    check_labels(spec, graph)
    check_teachers(spec, graph)
    check_metrics(spec, graph)
    check_determinism(spec, graph, path_of, note)
    note_shifts(spec, graph, path_of, note)
    return graph


def initial_plan(graph: Graph, spec: Spec) -> TransferPlan:
    """A source for every weight of the untrained network: the op's default, or what `init` says instead."""
    init = init_of(spec)

    def init_at(node_id: int) -> str:
        if not isinstance(spec.network, RunNetwork):
            return own_init(graph, node_id) or init
        return made_with(graph, node_id) if init == "default" else init  # blocks say how they were made

    own = starts_of(graph, init_at)
    sources: dict[Key, Source] = {}
    for node_id, slots in graph.infer.slots.items():
        sources.update({Key(node_id, name): own.get(Key(node_id, name), slot.init) for name, slot in slots.items()})
    return TransferPlan(sources)


def init_of(spec: Spec) -> str:
    """Name of the initializer; "default" means torch's, or that of an imported model. Raises SpecError."""
    if spec.init not in INITS:
        raise spec.problem(("init",), f"unknown initializer {spec.init!r}", suggestion(spec.init, INITS))
    if spec.init == "default" and isinstance(spec.network, ImportedNetwork) and spec.network.is_preset:
        return presets.init_of(spec.network.model)
    return spec.init


def _steps(spec: Spec) -> Iterator[_Step]:
    if isinstance(spec.network, ImportedNetwork):
        for kind, options in presets.steps_of(spec.network.model, spec.network.classes):
            yield _Step(kind, options, options.pop("label", None), ("network",))
        return
    for index, step in enumerate(spec.steps):
        yield _Step(step.kind, step.options, step.label, ("network", index, step.kind))


def _add(spec: Spec, make: Maker, x: Port, step: _Step) -> Port:
    if step.kind == "stage":
        return _stage(spec, make, x, step)
    if step.kind in STEPS or step.kind in ops.names() or step.kind not in {*spec.blocks, *blocks.names()}:
        return add_step(make, x, step.kind, step.options, step.label)
    options = {key: value for key, value in step.options.items() if key not in ("stride", "label")}
    name = step.label or make.numbered(step.kind)
    make.used.add(name)
    template = _template(spec, make, step.kind, options)
    return build_block(make.draft, x, name, template, stride=step.options.get("stride", 1), sums=make.sums)


def _stage(spec: Spec, make: Maker, x: Port, step: _Step) -> Port:
    given = step.options
    if step.label is not None:
        raise spec.problem((*step.path, "label"), "a stage has no label", f"its name is {given['name']!r}")
    options = {key: value for key, value in given.items() if key not in STAGE_KEYS}
    if "out" in given:
        options = {"out": given["out"], **options}
    template = _template(spec, make, given["block"], options)
    path = given["name"]
    make.draft.region(path, "stage", template)
    for index in range(given.get("depth", 1)):
        stride = given.get("stride", 1) if index == 0 else 1
        x = build_block(make.draft, x, f"{path}.{index}", template, stride=stride, sums=make.sums)
    return x


def _template(spec: Spec, make: Maker, block: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """JSON that builds the block without the spec: a definition of the spec is written out."""
    kept = {} if make.init == "default" else {"init": make.init}
    return {"block": spec.blocks.get(block, block), "options": dict(options), **kept}
