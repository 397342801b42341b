"""`insert-block`: what each initializer does to the function, to gradients and to weights (Wen et al. 2020)."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, lived, logits, pyramid, same_tensors
from torch.nn import functional

from nasir.backends.torch import Model
from nasir.errors import Decline, OptionError, UnknownName
from nasir.ir import Draft, Graph, Port
from nasir.passes.insert_block import InsertBlock
from nasir.registry import passes
from nasir.rewriting.rewrite import REMARK, Rewrite, Settle
from nasir.testing import PassContract
from nasir.transfer import TransferPlan

NORM = "bn2"  # the last norm of a basic block's branch


def nearly_negative_stream() -> Graph:
    """Pre-activation blocks (the stream may be negative), whose stage is grown by post-activation ones."""
    return pyramid((2, 1), 4, block="preact_basic", size=8)


def state(model: Model) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class TestInsertBlockContract(PassContract):
    make = staticmethod(lambda: InsertBlock(init="zero"))

    def graphs(self) -> list[Graph]:
        return [pyramid((1, 2), 4, size=8), pyramid((2, 1), 4, block="preact_basic", size=8)]


class TestNearZeroContract(PassContract):
    make = staticmethod(lambda: InsertBlock(init="near_zero", sigma=1e-4))

    def graphs(self) -> list[Graph]:
        return [pyramid((1, 1), 4, block="resbuilder", size=8), pyramid((1, 1), 4, size=8)]


# -- zero: silent


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("site", ["s1", "s2", "s3", "s1.0"])
def test_zero_is_bit_identical_behind_a_relu(site: str, training: bool) -> None:
    model = lived(pyramid())
    before = logits(model, images(), training)
    rewrite = model.apply(InsertBlock(init="zero"), site)
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert torch.equal(logits(model, images(), training), before)


def test_zero_in_every_stage_at_once_and_twice_over() -> None:
    model = lived(pyramid(size=16))
    before = [logits(model, images(size=16), training) for training in (False, True)]
    for site in ("s1", "s2", "s3", "s2", "s1.0"):
        model.apply(InsertBlock(init="zero"), site)
    assert model.graph.depths() == {"s1": 3, "s2": 3, "s3": 2}
    after = [logits(model, images(size=16), training) for training in (False, True)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("options", ["", "branch_scale: skipinit", "norm: none, branch_scale: skipinit"])
def test_zero_on_a_stream_of_any_sign_is_exact_without_a_relu_behind_the_sum(options: str) -> None:
    model = lived(pyramid((1, 1), 4, block="preact_basic", options=options, size=8))
    before = [logits(model, images(size=8), training) for training in (False, True)]
    rewrite = model.apply(InsertBlock(init="zero"), "s1")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    after = [logits(model, images(size=8), training) for training in (False, True)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_post_activation_block_on_a_stream_that_may_be_negative_is_not_called_exact() -> None:
    model = lived(nearly_negative_stream())
    before = logits(model, images(size=8))
    rewrite = model.apply(InsertBlock(init="zero", block={"block": "basic"}), "s1.0")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "no"
    assert (logits(model, images(size=8)) - before).abs().max() > 1e-3  # its ReLU cuts the negative half off


@pytest.mark.parametrize("last", ["batch_norm", "linear"])
def test_neither_is_one_behind_a_norm_or_a_linear_layer(last: str) -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[4, 6, 6] if last == "batch_norm" else [4])
    x = draft.add(last, x, "s1.0.tail", **({} if last == "batch_norm" else {"out": 4}))
    draft.region("s1.0", "block")
    draft.region("s1", "stage")
    draft.output(draft.add("flatten", x, "flat"))
    graph = draft.commit()
    branch = [{"conv": {"out": "out"}}, "batch_norm"] if last == "batch_norm" else [{"linear": {"out": "out"}}]
    for then, claim in ((["relu"], "no"), ([], "exact")):
        template = {"branch": branch, "then": then}
        assert InsertBlock(init="zero", block=template).attempt(graph, "s1").preserves == claim


def test_the_first_gradient_after_zero_reaches_only_the_last_norm_and_the_rest_wakes_up_a_step_later() -> None:
    model = lived(pyramid(size=16))
    model.apply(InsertBlock(init="zero"), "s2")
    new = [name for name, _ in model.named_parameters() if name.startswith("s2.1.")]
    labels = torch.arange(4) % 10
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    awake = []
    for _ in range(2):
        optimizer.zero_grad()
        functional.cross_entropy(model.train()(images(size=16)), labels).backward()
        awake.append({name for name, p in model.named_parameters() if name in new and p.grad.abs().max() > 0})
        optimizer.step()
    assert awake[0] == {f"s2.1.{NORM}.weight", f"s2.1.{NORM}.bias"}
    assert awake[1] == set(new)


# -- the loud ones


def test_gaussian_and_uniform_draw_what_they_say_into_the_last_norm_only() -> None:
    graph = pyramid((1, 1), 512, size=4)  # 1,024 values in stage 2: moments with small errors
    moments = {"gaussian": (0.0, 1.0), "uniform": (0.5, 12**-0.5), "uniform_std1": (0.0, 1.0)}
    edges = {"gaussian": (-5.0, 5.0), "uniform": (0.0, 1.0), "uniform_std1": (-(3**0.5), 3**0.5)}
    model = Model.from_graph(graph)
    plain = model.rewritten(InsertBlock(init="default").attempt(graph, "s2")).state_dict()
    for init, (mean, std) in moments.items():
        loud = model.rewritten(InsertBlock(init=init).attempt(graph, "s2")).state_dict()  # type: ignore[arg-type]
        changed = {name for name in loud if not torch.equal(loud[name], plain[name])}
        assert changed == {f"s2.1.{NORM}.weight", f"s2.1.{NORM}.bias"}, init
        for name in changed:
            drawn = loud[name]
            assert abs(float(drawn.mean()) - mean) < 5 * std / 32, (init, name)
            assert abs(float(drawn.std()) - std) < 5 * std / 32, (init, name)
            assert edges[init][0] <= float(drawn.min()) and float(drawn.max()) <= edges[init][1], (init, name)
        weight, bias = sorted(changed)
        assert not torch.equal(loud[weight], loud[bias])  # two streams, not one


@pytest.mark.parametrize("init", ["gaussian", "uniform", "uniform_std1", "default", "copy"])
def test_loud_blocks_change_the_logits_and_claim_nothing(init: Any) -> None:
    model = lived(pyramid((2, 2), 8, size=16))
    before, old = logits(model, images(size=16)), state(model)
    rewrite = model.apply(InsertBlock(init=init), "s1")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "no"
    assert (logits(model, images(size=16)) - before).abs().max() > 0.01
    assert same_tensors({name: t for name, t in model.state_dict().items() if name in old}, old)


def test_a_new_norm_starts_with_statistics_of_nothing() -> None:
    model = lived(pyramid((1, 1), 4, size=8))
    model.apply(InsertBlock(init="gaussian"), "s1")
    new = model.state_dict()
    assert not new[f"s1.1.{NORM}.running_mean"].any() and bool((new[f"s1.1.{NORM}.running_var"] == 1).all())


def test_the_seed_decides_the_draw_and_every_rewrite_draws_anew() -> None:
    graph = pyramid((1, 1), 4, size=8)
    drawn = []
    for seed in (1, 1, 2):
        model = Model.from_graph(graph, seed)
        model.apply(InsertBlock(init="gaussian"), "s1")
        model.apply(InsertBlock(init="gaussian"), "s1")
        drawn.append((model.state_dict()["s1.1.bn2.weight"], model.state_dict()["s1.2.bn2.weight"]))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])
    assert not torch.equal(drawn[0][0], drawn[2][0]) and not torch.equal(drawn[0][0], drawn[0][1])


# -- near zero


@pytest.mark.parametrize("block", ["resbuilder", "preact_basic"])
def test_the_effect_of_near_zero_is_linear_in_sigma(block: str) -> None:
    graph = pyramid((1, 1), 8, block=block, size=8)
    model = lived(graph, dtype=torch.float64)
    x = images(size=8, dtype=torch.float64)
    before = logits(model, x)
    changes = []
    for sigma in (1e-4, 1e-5, 1e-6):
        rewrite = InsertBlock(init="near_zero", sigma=sigma).attempt(graph, "s2")
        assert rewrite.preserves == "approximate"
        changes.append(logits(model.rewritten(rewrite), x) - before)
    assert 0 < changes[0].abs().max() < 1e-2
    for larger, smaller in pairwise(changes):
        assert float((smaller * 10 - larger).norm() / larger.norm()) < 0.01


def test_a_branch_that_ends_in_a_relu_is_never_born_dead() -> None:
    graph = pyramid((1, 1), 4, block="resbuilder", size=8)
    with pytest.raises(Decline, match="never get a gradient; use init: near_zero"):
        InsertBlock(init="zero").attempt(graph, "s1")
    model = lived(graph)
    model.apply(InsertBlock(init="near_zero"), "s1")
    functional.cross_entropy(model.train()(images(size=8)), torch.arange(4)).backward()
    dead = [name for name, p in model.named_parameters() if name.startswith("s1.1.") and not p.grad.any()]
    assert not dead


@pytest.mark.parametrize("init", ["gaussian", "uniform", "uniform_std1", "adam"])
def test_initializers_of_a_norm_decline_a_branch_that_ends_otherwise(init: Any) -> None:
    graph = pyramid((1, 1), 4, block="preact_basic", size=8)
    with pytest.raises(Decline, match="ends in a conv2d; use near_zero"):
        InsertBlock(init=init).attempt(graph, "s1")


# -- adam


def test_adam_asks_to_train_the_last_norm_alone() -> None:
    graph = pyramid((1, 1), 4, size=8)
    rewrite = InsertBlock(init="adam", settle_lr=0.01, settle_epochs=3, tolerance=0.02).attempt(graph, "s1")
    tail = rewrite.graph.find(f"s1.1.{NORM}")
    assert rewrite.settle == Settle(((tail, "weight"), (tail, "bias")), 0.01, 0.02, 3)
    assert rewrite.preserves == "no"


# -- copies and structure


def test_copy_copies_the_block_before_it_and_nothing_is_shared() -> None:
    model = lived(pyramid((3, 1), 4, size=8))
    model.apply(InsertBlock(init="copy"), "s1.1")
    old, new = model.s1.get_submodule("1").state_dict(), model.s1.get_submodule("3").state_dict()
    assert same_tensors(old, new)
    assert not {t.data_ptr() for t in old.values()} & {t.data_ptr() for t in new.values()}
    graph = model.graph
    assert graph.boundary("s1.3")[0] == Port(graph.boundary("s1.1")[1])
    assert graph.boundary("s1.2")[0] == Port(graph.boundary("s1.3")[1])


def test_copy_behind_a_block_that_changes_shape_starts_fresh() -> None:
    model = lived(pyramid((1, 1), 4, size=8))
    default = model.rewritten(InsertBlock(init="default").attempt(model.graph, "s2")).state_dict()
    copy = InsertBlock(init="copy").attempt(model.graph, "s2")
    assert same_tensors(model.rewritten(copy).state_dict(), default)
    assert copy.noted == {REMARK: "no block of 's2' before 's2.1' is built like it: it starts fresh, not as a copy"}
    assert InsertBlock(init="copy").attempt(model.graph, "s1").noted == {}


def test_default_leaves_every_slot_to_its_own_initializer() -> None:
    graph = pyramid((1, 1), 4, size=8)
    rewrite = InsertBlock(init="default").attempt(graph, "s1")
    slots = rewrite.graph.infer.slots
    assert all(source == slots[key.node][key.slot].init for key, source in rewrite.plan.sources.items())


def test_the_structure_of_a_neighbour_replaces_a_template() -> None:
    graph = pyramid((2, 1), 4, size=8)
    copied = InsertBlock(init="default", block="copy").attempt(graph, "s1").graph
    assert copied.digest == InsertBlock(init="default").attempt(graph, "s1").graph.digest


@pytest.mark.parametrize(
    ("block", "width", "stage", "more"),
    [
        ("basic", 16, 0, 4_672),
        ("basic", 16, 1, 18_560),
        ("basic", 16, 2, 73_984),
        ("basic", 16, 3, 295_424),
        ("basic", 16, 4, 1_180_672),
        ("basic", 16, 5, 4_720_640),
        ("plain", 16, 0, 2_336),
        ("plain", 16, 2, 36_992),
        ("bottleneck", 64, 0, 70_400),
        ("bottleneck", 64, 1, 280_064),
        ("bottleneck", 64, 2, 1_117_184),
        ("bottleneck", 64, 3, 4_462_592),
    ],
)
def test_parameters_grow_by_the_known_numbers(block: str, width: int, stage: int, more: int) -> None:
    graph = pyramid((1,) * (stage + 1), width, block=block)
    new = InsertBlock(init="default").attempt(graph, f"s{stage + 1}").graph
    assert new.cost().params - graph.cost().params == more


def test_macs_of_a_basic_block_are_the_same_in_every_stage() -> None:
    graph = pyramid()
    for stage in ("s1", "s2", "s3"):
        new = InsertBlock().attempt(graph, stage).graph
        assert new.cost().macs - graph.cost().macs == 4_718_592


def test_counts_of_the_nets_that_autogrow_begins_and_ends_with() -> None:
    grown = pyramid()
    assert (grown.cost().params, grown.cost().macs) == (78_042, 12_501_632)
    for _ in range(2):
        for stage in ("s1", "s2", "s3"):
            grown = InsertBlock().attempt(grown, stage).graph
    assert (grown.cost().params, grown.cost().macs) == (272_474, 40_813_184)
    assert grown.digest == pyramid((3, 3, 3)).digest


# -- sites and refusals


def test_sites_are_stages_and_blocks() -> None:
    assert list(InsertBlock().sites(pyramid((1, 2), 4))) == ["s1", "s2", "s1.0", "s2.0", "s2.1"]
    with pytest.raises(UnknownName, match="insert-block has no site 's9' in the network as it is now; did you mean 's"):
        InsertBlock().attempt(pyramid((1, 1), 4), "s9")


@pytest.mark.parametrize("init", ["zero", "near_zero", "gaussian", "adam"])
def test_plain_blocks_have_no_branch_to_initialize(init: Any) -> None:
    graph = pyramid((1, 1), 4, block="plain")
    with pytest.raises(Decline, match=r"no identity shortcut.*init: default or copy"):
        InsertBlock(init=init).attempt(graph, "s1")
    assert InsertBlock(init=init).apply(graph, "s1") is None
    assert InsertBlock(init="default").attempt(graph, "s1").graph.depths()["s1"] == 2


def test_a_block_that_changes_the_shape_is_declined() -> None:
    template = {"branch": [{"conv": {"out": "out", "stride": 2}}], "shortcut": "none"}
    with pytest.raises(Decline, match=r"\(4, 32, 32\) into \(4, 16, 16\)"):
        InsertBlock(block=template, init="default").attempt(pyramid((1, 1), 4), "s1")


def test_a_block_takes_the_width_that_its_stage_has_today() -> None:
    template = {"block": "basic", "options": {"out": 8}}
    graph = InsertBlock(block=template).attempt(pyramid((1, 1), 4), "s1").graph
    assert graph.infer.types[Port(graph.find("s1.1.conv1"))].shape == (4, 32, 32)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 0}, "sigma: must be above 0, found 0"),
        ({"settle_lr": -1}, "settle_lr: must be above 0, found -1"),
        ({"settle_epochs": 0}, "settle_epochs: must be at least 1, found 0"),
        ({"tolerance": 1.0}, "tolerance: must be below 1, found 1.0"),
        ({"tolerance": -0.1}, "tolerance: must be at least 0, found -0.1"),
        ({"init": "zeros"}, "init: unknown value 'zeros'; did you mean 'zero'?"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as caught:
        InsertBlock(**options)
    assert str(caught.value).startswith(f"pass insert-block: {words}")


def test_it_is_registered_with_its_options_as_plain_data() -> None:
    assert passes.get("insert-block") is InsertBlock
    options = InsertBlock(init="adam", block={"block": "basic"}).options()
    assert InsertBlock(**json.loads(json.dumps(options))) == InsertBlock(init="adam", block={"block": "basic"})


# -- what survives


def train(model: Model, optimizer: torch.optim.Optimizer, steps: int, size: int = 8) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model.train()(images(6, size, seed=step)), torch.arange(6) % 3)
        loss.backward()
        optimizer.step()


def test_momentum_of_survivors_stays_and_new_weights_have_none() -> None:
    model = lived(pyramid((1, 1), 4, size=8, classes=3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer, 2)
    survivors = dict(model.named_parameters())
    momentum = {name: optimizer.state[p]["momentum_buffer"].clone() for name, p in survivors.items()}
    model.apply(InsertBlock(init="zero"), "s1", optimizers=[optimizer])
    for name, parameter in model.named_parameters():
        if name in survivors:
            assert parameter is survivors[name]
            assert torch.equal(optimizer.state[parameter]["momentum_buffer"], momentum[name])
        else:
            assert parameter not in optimizer.state
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    train(model, optimizer, 1)
    assert all("momentum_buffer" in optimizer.state[p] for p in model.parameters())


def test_adam_counts_the_steps_of_each_parameter() -> None:
    model = lived(pyramid((1, 1), 4, size=8, classes=3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    train(model, optimizer, 3)
    model.apply(InsertBlock(init="gaussian"), "s1", optimizers=[optimizer])
    train(model, optimizer, 2)
    steps = {name: int(optimizer.state[p]["step"]) for name, p in model.named_parameters()}
    assert {name for name, count in steps.items() if count == 2} == {n for n in steps if n.startswith("s1.1.")}
    assert set(steps.values()) == {2, 5}


def test_a_plan_read_back_from_json_gives_the_same_bits(tmp_path: Path) -> None:
    model = lived(pyramid((2, 1), 4, size=8), seed=5)
    for init in ("gaussian", "near_zero", "copy", "zero"):
        rewrite = InsertBlock(init=init).attempt(model.graph, "s1")  # type: ignore[arg-type]
        file = tmp_path / f"{init}.json"
        file.write_text(json.dumps([rewrite.graph.to_json(), rewrite.plan.to_json()]))
        graph, plan = json.loads(file.read_text())
        again = Rewrite(
            model.graph, Graph.from_json(graph), TransferPlan.from_json(plan), {}, rewrite.site, rewrite.preserves
        )
        first, second = model.rewritten(rewrite), model.rewritten(again)
        assert same_tensors(first.state_dict(), second.state_dict())
        assert torch.equal(logits(first, images(size=8)), logits(second, images(size=8)))
