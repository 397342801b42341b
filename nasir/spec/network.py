"""From a spec to its first graph: steps in order, stages of repeated blocks, torchvision's ResNets by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nasir.blocks import INITIALIZERS, Steps, build_block
from nasir.errors import Decline, GraphError, UnknownName
from nasir.ir import Draft, Graph, Port
from nasir.spec.model import Spec
from nasir.spec.model_network import ImportedNetwork, StageStep
from nasir.transfer import Key, TransferPlan

# torchvision's ResNets: block and depths of the four stages (He et al. 2015, table 1)
RESNETS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "resnet18": ("basic", (2, 2, 2, 2)),
    "resnet34": ("basic", (3, 4, 6, 3)),
    "resnet50": ("bottleneck", (3, 4, 6, 3)),
    "resnet101": ("bottleneck", (3, 4, 23, 3)),
    "resnet152": ("bottleneck", (3, 8, 36, 3)),
}


def build(spec: Spec) -> Graph:
    """The network a spec describes, typed and verified. Raises SpecError at the step that does not fit."""
    if spec.init not in INITIALIZERS:
        raise spec.problem(("init",), f"unknown initializer {spec.init!r}", f"use one of {', '.join(INITIALIZERS)}")
    draft = Draft()
    try:
        x = draft.add("input", (), "x", shape=list(spec.input.shape))
        draft.shape(x)
    except GraphError as error:
        raise spec.problem(("input",), str(error)) from None
    x = _imported(spec, draft, x) if isinstance(spec.network, ImportedNetwork) else _steps(spec, draft, x)
    draft.output(x)
    try:
        return draft.commit()
    except GraphError as error:
        raise spec.problem(("network",), str(error)) from None


def initial_plan(graph: Graph, spec: Spec) -> TransferPlan:
    """Where the first weights come from: the spec's `init`, else the ops' own initializers."""
    chosen = INITIALIZERS[spec.init]
    return TransferPlan(
        {
            Key(node_id, name): chosen.get((graph.nodes[node_id].op, name), slot.init)
            for node_id, slots in graph.infer.slots.items()
            for name, slot in slots.items()
        }
    )


def _steps(spec: Spec, draft: Draft, x: Port) -> Port:
    steps = Steps(draft)
    for index, step in enumerate(spec.steps):
        path: tuple[str | int, ...] = ("network", index, step.kind)
        try:
            chosen = step.chosen
            if isinstance(chosen, StageStep):
                x = _stage(spec, draft, x, chosen)
            elif step.kind in spec.blocks:
                label = step.label or steps.label(step.kind)
                options = step.options
                stride = options.pop("stride", 1)
                x = build_block(draft, x, label, _template(spec, step.kind, options), stride=stride)
            else:
                x = steps.apply(x, step.kind, step.options, step.label)
            draft.shape(x)
        except (GraphError, UnknownName, Decline) as error:
            raise spec.problem(path, str(error)) from None
    return x


def _stage(spec: Spec, draft: Draft, x: Port, step: StageStep) -> Port:
    options = {"out": step.out, **(step.model_extra or {})}
    return add_stage(draft, x, step.name, _template(spec, step.block, options), step.depth, step.stride)


def _template(spec: Spec, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The template of a block by name; one defined in the spec is written out, to be known without the spec."""
    kind: Any = spec.blocks.get(name, name)
    template = {"block": kind, "options": dict(options)}
    if spec.init != "default":
        template["init"] = spec.init
    return template


def add_stage(
    draft: Draft, x: Port, name: str, template: Mapping[str, Any], depth: int, stride: int
) -> Port:
    """A stage region of `depth` blocks, the first with the stride."""
    draft.region(name, "stage", dict(template))
    for index in range(depth):
        x = build_block(draft, x, f"{name}.{index}", template, stride=stride if index == 0 else 1)
        draft.shape(x)  # the error of a block that does not fit should name this block
    return x


def _imported(spec: Spec, draft: Draft, x: Port) -> Port:
    source = spec.network
    assert isinstance(source, ImportedNetwork)
    if source.model not in RESNETS:
        raise spec.problem(
            ("network", "model"), f"no model {source.model!r} to import", f"use one of {', '.join(RESNETS)}"
        )
    try:
        return add_resnet(draft, x, source.model, source.classes or 1000, spec.init)
    except (GraphError, Decline) as error:
        raise spec.problem(("network", "model"), str(error)) from None


def add_resnet(draft: Draft, x: Port, model: str, classes: int, init: str = "default") -> Port:
    """torchvision's ResNet under torchvision's names, so that its state_dict loads with no key map."""
    kind, depths = RESNETS[model]
    x = draft.add("conv2d", x, "conv1", out=64, kernel=7, stride=2, padding=3)
    x = draft.add("batch_norm", x, "bn1")
    x = draft.add("relu", x, "relu")
    x = draft.add("max_pool", x, "maxpool", kernel=3, stride=2, padding=1)
    for stage, depth in enumerate(depths):
        template: dict[str, Any] = {"block": kind, "options": {"out": 64 << stage}}
        if init != "default":
            template["init"] = init
        x = add_stage(draft, x, f"layer{stage + 1}", template, depth, 1 if stage == 0 else 2)
    x = draft.add("global_avg_pool", x, "avgpool")
    return draft.add("linear", x, "fc", out=classes)

