"""What is frozen stays as it is, bit for bit, through training and rewrites; in the graph's value and in specs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from grown import images, lived, logits, pyramid
from small_runs import SPEC, write_spec

import nasir.api
from nasir.backends.torch import Model
from nasir.backends.torch.optimizers.groups import build_optimizer
from nasir.backends.torch.train.loop import train_epoch
from nasir.errors import Decline, GraphError, RunError, TextFormatError
from nasir.ir import Graph, parse
from nasir.passes.freeze import Freeze, Unfreeze
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.report.diff import difference
from nasir.training.plans import OptimizerPlan, TrainPlan

STEM = ("conv1", "bn1", "s1")
ADAMW = TrainPlan(OptimizerPlan("adamw", lr=0.01, weight_decay=0.5), precision="fp32")


class Batches:
    """Three batches of random images."""

    steps_per_epoch = 3

    def batches(self, epoch: int, start_step: int = 0):  # type: ignore[no-untyped-def]
        for step in range(start_step, 3):
            yield images(8, 8, seed=10 * epoch + step), torch.arange(8) % 3


def network(*frozen: str, depths: tuple[int, ...] = (2, 1)) -> Graph:
    draft = pyramid(depths, 4, size=8, classes=3).draft()
    for prefix in frozen:
        draft.freeze(prefix)
    return draft.commit()


def train(model: Model, epochs: int = 1, plan: TrainPlan = ADAMW) -> torch.optim.Optimizer:
    slots = model.graph.infer.slots
    named = dict(model.named_parameters())
    tagged = [
        (name, named[name], slots[key.node][key.slot].tags) for name, key in model.keys().items() if name in named
    ]
    optimizer = build_optimizer(tagged, plan.optimizer)
    for epoch in range(epochs):
        train_epoch(model, optimizer, Batches(), plan, seed=0, epoch=epoch, phase_epoch=epoch, phase_epochs=None)
    return optimizer


def stem_of(model: Model) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in model.state_dict().items() if k.split(".")[0] in STEM}


# -- training


def test_a_frozen_stem_puts_out_the_same_bits_after_training_and_its_statistics_stay() -> None:
    """RRR-Net: the stem is in eval mode, without updates or weight decay, while the rest trains."""
    model = lived(network(*STEM))
    model.hold()
    taken: list[torch.Tensor] = []
    x, before = images(8, 8), stem_of(model)
    hook = model.units["s1.1"].register_forward_hook(lambda module, args, out: taken.append(out.detach().clone()))
    model.train()
    with torch.no_grad():
        model(x)
    whole = {k: v.clone() for k, v in model.state_dict().items()}
    taken.clear()
    with torch.no_grad():
        model(x)
    optimizer = train(model, epochs=2)
    taken_before = taken[0]
    taken.clear()
    model.train()
    with torch.no_grad():
        model(x)
    hook.remove()
    assert torch.equal(taken[0], taken_before)
    assert all(torch.equal(before[name], tensor) for name, tensor in stem_of(model).items())
    after = model.state_dict()
    assert all(not torch.equal(after[n], whole[n]) for n in after if n.startswith("s2") and n.endswith("weight"))
    stem = {id(p) for n, p in model.named_parameters() if n.split(".")[0] in STEM}
    assert not any(id(p) in stem for p in optimizer.state)
    assert all(p.requires_grad is (id(p) not in stem) for p in model.parameters())


def test_what_was_frozen_by_hand_stays_so_and_what_is_released_learns() -> None:
    model = Model.from_graph(network("s1"))
    model.fc.weight.requires_grad_(False)
    model.apply(Unfreeze(), "s1")
    assert not model.fc.weight.requires_grad and model.get_parameter("s1.0.conv1.weight").requires_grad
    before = stem_of(model)
    train(model)
    assert all(not torch.equal(before[n], t) for n, t in stem_of(model).items() if n.endswith("conv1.weight"))


def test_a_block_inserted_into_a_frozen_region_is_frozen_and_a_removed_region_leaves_nothing() -> None:
    model = Model.from_graph(network("s1", "s2.0"))
    model.apply(InsertBlock(), "s1")
    assert not model.get_parameter("s1.2.conv1.weight").requires_grad
    model.train()
    assert not any(m.training for n, m in model.named_modules() if n.startswith("s1.") and "bn" in n)
    model.apply(RemoveBlock(), "s1.2")
    assert model.graph.frozen == ("s1", "s2.0")
    draft = network("s1.1").draft()
    draft.remove_region("s1.1")
    before, after = draft.base.boundary("s1.1")
    draft.rewire(type(before)(after), before)
    assert draft.commit().frozen == ()


def test_nothing_left_to_learn_is_an_error() -> None:
    model = Model.from_graph(network())
    model.hold(["conv1", "bn1", "s1", "s2", "fc"])
    with pytest.raises(RunError, match="every weight is frozen"):
        train(model)
    model.hold()
    train(model)


def test_frozen_parts_stay_out_of_evaluation_flags_and_proposals() -> None:
    model = lived(network("s1"))
    x = images(4, 8)
    before = logits(model, x, training=True)
    rewrite = Freeze().attempt(model.graph, "s2")
    other = model.rewritten(rewrite)
    assert model.get_parameter("s2.0.conv1.weight").requires_grad, "only a proposal"
    model.become(other)
    assert not model.get_parameter("s2.0.conv1.weight").requires_grad
    assert not torch.equal(logits(model, x, training=True), before)
    assert torch.equal(logits(model, x), logits(other, x))


# -- the value


def test_frozen_labels_are_part_of_the_value_and_not_of_the_digest() -> None:
    plain, frozen = network(), network("s2", "conv1")
    assert frozen.frozen == ("conv1", "s2") and plain != frozen and plain.digest == frozen.digest
    assert Graph.from_json(frozen.to_json()) == frozen and parse(frozen.to_text()) == frozen
    assert "frozen" not in plain.to_json() and "frozen" not in plain.to_text()
    assert frozen.is_frozen(frozen.find("s2.0.conv1")) and not frozen.is_frozen(frozen.find("bn1"))
    with pytest.raises(TextFormatError, match="frozen 's9': no node is labelled so"):
        Graph.from_json({**plain.to_json(), "frozen": ["s9"]})


def test_prefixes_cover_each_other_and_can_be_split() -> None:
    draft = network("s1.0", "s1.1").draft()
    draft.freeze("s1")
    assert draft.frozen == {"s1"}
    draft.freeze("s1.0")
    assert draft.frozen == {"s1"}
    draft.unfreeze("s1.0.conv1")
    graph = draft.commit()
    assert not graph.is_frozen(graph.find("s1.0.conv1"))
    rest = [n for n in graph.members("s1") if n != graph.find("s1.0.conv1")]
    assert all(graph.is_frozen(n) for n in rest) and "s1.1" in graph.frozen
    with pytest.raises(GraphError, match="nothing is labelled 's3'"):
        draft.freeze("s3")


# -- specs


def test_a_phase_freezes_for_its_own_length(tmp_path: Path) -> None:
    text = SPEC[: SPEC.index("phases:")] + (
        "phases:\n"
        "  - name: first\n    epochs: 1\n    optimizer: {adamw: {lr: 0.01, weight_decay: 0.1}}\n"
        "    ema: {decay: 0.5}\n    freeze: [conv1, s1]\n"
        "    rules: [{every: 1, do: {insert-block: {init: near_zero}}, where: {stages: [s1]}}]\n"
        "  - {name: second, epochs: 1, freeze: [s2]}\n"
    )
    run = nasir.api.run(write_spec(tmp_path, text), tmp_path / "run")
    assert run.graph.frozen == (), "only for the phase"
    from safetensors.torch import load_file

    steps = sorted((tmp_path / "run" / "checkpoints").glob("step_*"), key=lambda p: int(p.name[5:]))
    before, after = (load_file(step / "model.safetensors") for step in steps[-2:])
    fresh = Model.from_graph(nasir.build(nasir.load_spec(tmp_path / "tiny.yaml")), 3).state_dict()
    for name, tensor in before.items():
        held = name.startswith(("conv1", "s1"))
        still = torch.equal(tensor, fresh[name]) if name in fresh else True
        assert still is held or tensor.ndim == 0, name
        changes = not torch.equal(tensor, after[name])
        assert changes is not name.startswith("s2"), name


# -- the passes


def test_freeze_leaves_norms_learning_if_asked() -> None:
    graph = Freeze(norms=False).attempt(network(), "s1").graph
    assert graph.is_frozen(graph.find("s1.0.conv1")) and not graph.is_frozen(graph.find("s1.0.bn1"))


def test_freeze_and_unfreeze_decline_what_changes_nothing() -> None:
    graph = network("s1")
    for change, site, reason in (
        (Freeze(), "s1.0", "s1.0 is frozen already"),
        (Unfreeze(), "s2", "nothing of s2 is frozen"),
        (Freeze(paths=("s7",)), "network", "nothing is labelled 's7' or below it"),
    ):
        with pytest.raises(Decline, match=reason):
            change.attempt(graph, site)
    assert Unfreeze().attempt(graph, "network").graph.frozen == ()


def test_statistics_are_refreshed_before_they_are_frozen() -> None:
    rewrite = Freeze(paths=("conv1", "s1"), refresh_epochs=10).attempt(network(), "network")
    assert rewrite.refresh is not None and rewrite.refresh.epochs == 10 and rewrite.refresh.frozen
    assert rewrite.refresh.paths == ("conv1", "s1") and rewrite.preserves == "no"
    assert Freeze().attempt(network(), "s1").preserves == "exact"


def test_a_difference_in_what_is_frozen_is_shown() -> None:
    assert [str(change) for change in difference(network(), network("s1", "conv1"))] == [
        "~ frozen: nothing -> conv1, s1"
    ]
    assert difference(network("s1"), network("s1")) == ()
