"""What residual branches contribute: measured numbers against torch by hand, in float64, and what follows from them."""

from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from grown import images, lived, logits, pyramid
from networks import basic_block, small_resnet
from torch import Tensor, nn
from torch.nn import functional as F

from nasir import from_module
from nasir.analysis.contributions import Contribution, ResidualAnalysis, Spread, effective_depth
from nasir.analysis.residuals import residual_sums
from nasir.backends.torch import Model
from nasir.backends.torch.lower.stepwise import run_stepwise
from nasir.backends.torch.observe.residuals import contributions, expansion, orders
from nasir.blocks import build_block
from nasir.errors import UsageError
from nasir.ir import Draft, Graph

EXACT = 1e-12


def values_of(module: nn.Module) -> list[Tensor]:
    """What a module puts out from now on, before anything overwrites it."""
    kept: list[Tensor] = []
    module.register_forward_hook(lambda module, given, value: kept.append(value.clone()))
    return kept


def samples(count: int = 5, size: int = 8) -> Tensor:
    return images(count, size, dtype=torch.float64)


def by_hand(model: Model, x: Tensor, training: bool = False) -> tuple[list[tuple[Tensor, Tensor, Tensor]], Tensor]:
    """(stream, branch, sum) of each block of a `small_resnet`, and the logits, by the functions of torch."""
    weights = {name: value.detach() for name, value in model.state_dict().items()}

    def norm(x: Tensor, name: str) -> Tensor:
        own = [weights[f"{name}.{part}"].clone() for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(x, *own, training=training)

    x = F.relu(norm(F.conv2d(x, weights["conv1.weight"], padding=1), "bn1"))
    found = []
    for path in ("s1.0", "s2.0", "s2.1"):
        stride = 2 if path == "s2.0" else 1
        y = F.relu(norm(F.conv2d(x, weights[f"{path}.conv1.weight"], stride=stride, padding=1), f"{path}.bn1"))
        y = norm(F.conv2d(y, weights[f"{path}.conv2.weight"], padding=1), f"{path}.bn2")
        if stride == 2:
            x = norm(F.conv2d(x, weights[f"{path}.downsample.0.weight"], stride=2), f"{path}.downsample.1")
        total = x + y
        found.append((x, y, total))
        x = F.relu(total)
    return found, F.linear(x.mean((2, 3)), weights["fc.weight"], weights["fc.bias"])


def length(value: Tensor) -> Tensor:
    return value.flatten(1).norm(dim=1)


def variance(value: Tensor) -> float:
    return value.var(dim=(0, 2, 3), correction=0).mean().item()


@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_every_number_is_that_of_the_forward_pass_by_hand(statistics: str) -> None:
    model, x = lived(small_resnet((1, 2)), dtype=torch.float64), samples()
    wanted, answer = by_hand(model, x, statistics == "batch")
    found = contributions(model, [x], statistics=statistics)  # type: ignore[arg-type]
    assert [item.label for item in found] == ["s1.0.add", "s2.0.add", "s2.1.add"]
    assert [item.depth for item in found] == [1, 1, 2]  # s2.0 projects
    for item, (stream, branch, total) in zip(found, wanted, strict=True):
        ratio, share = length(branch) / length(stream), length(branch) / length(total)
        assert item.ratio.mean == pytest.approx(ratio.mean().item(), rel=EXACT)
        assert item.ratio.median == pytest.approx(ratio.median().item(), rel=EXACT)
        assert item.share.mean == pytest.approx(share.mean().item(), rel=EXACT)
        assert item.share.median == pytest.approx(share.median().item(), rel=EXACT)
        for value, of in ((item.stream, stream), (item.branch, branch), (item.total, total)):
            assert value == pytest.approx(variance(of), rel=EXACT)
        assert item.variance_share == item.branch / item.total and item.gradient is None
    assert torch.allclose(run_stepwise(model.eval(), [x])[0], model(x), rtol=0, atol=0)
    if statistics == "running":
        assert torch.allclose(answer, model(x), rtol=EXACT, atol=EXACT)


def test_gradients_are_those_of_the_loss_of_each_sample() -> None:
    model, x = lived(small_resnet((1, 2)), dtype=torch.float64), samples()
    labels = torch.arange(5) % 3
    sums, answer = by_hand(model, x.clone().requires_grad_())
    loss = F.cross_entropy(answer, labels, reduction="sum")
    wanted = torch.autograd.grad(loss, [total for _, _, total in sums])
    found = contributions(model, [x], labels)
    for item, gradient in zip(found, wanted, strict=True):
        assert item.gradient == pytest.approx(length(gradient).mean().item(), rel=EXACT)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("statistics", ["running", "batch"])
def test_nothing_is_left_changed(training: bool, statistics: str) -> None:
    graph = pyramid((1, 1), 4, size=8, options="dropout: 0.5", block="preact_basic")
    model = lived(graph).train(training)
    model.get_submodule("s2.0.conv1").requires_grad_(False)
    modes = {name: module.training for name, module in model.named_modules()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    contributions(model, [images(4, 8)], torch.arange(4), statistics)  # type: ignore[arg-type]
    orders(model, [images(4, 8)], 1, statistics)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert modes == {name: module.training for name, module in model.named_modules()}
    assert flags == {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# -- the residual expansion


def linear_toy(count: int, size: int = 5) -> Graph:
    """x (1 + W1) (1 + W2) ..., as blocks."""
    draft = Draft()
    x = draft.add("input", (), "x", shape=[size])
    for number in range(count):
        y = draft.add("linear", x, f"b.{number}.fc", out=size, bias=False)
        x = draft.add("add", (y, x), f"b.{number}.add")
        draft.region(f"b.{number}", "block", {"block": "toy", "options": {}})
    draft.output(x)
    return draft.commit()


@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_product_of_linear_branches_is_the_sum_over_all_subsets(count: int) -> None:
    model = Model.from_graph(linear_toy(count), dtype=torch.float64)
    x = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    branches = [model.get_submodule(f"b.{number}.fc").weight.detach().T for number in range(count)]
    product = x
    for branch in branches:
        product = product + product @ branch
    parts, whole = expansion(model, [x], count)
    assert len(parts) == count + 1
    for order, part in enumerate(parts):
        terms = torch.zeros_like(x)
        for chosen in combinations(branches, order):
            term = x
            for branch in chosen:
                term = term @ branch
            terms = terms + term
        assert (part - terms).abs().max() < EXACT * product.abs().max()
    assert (sum(parts) - product).abs().max() < EXACT * product.abs().max()  # type: ignore[union-attr]
    assert (whole - product).abs().max() < EXACT * product.abs().max()


def test_the_orders_of_a_network_are_alternating_sums_and_add_up_to_its_logits() -> None:
    model, x = lived(pyramid((2, 2), 4, size=8), dtype=torch.float64), samples()
    parts, whole = expansion(model, [x], 4)
    assert torch.equal(whole, model.eval()(x))
    assert (sum(parts) - whole).abs().max() < EXACT * whole.abs().max()  # type: ignore[union-attr]
    # a block whose last norm is silent puts out what its shortcut does
    bare = lived(pyramid((2, 2), 4, size=8), dtype=torch.float64).eval()
    for path in ("s1.0", "s1.1", "s2.0", "s2.1"):
        norm = bare.get_submodule(f"{path}.bn2")
        nn.init.zeros_(norm.weight)
        nn.init.zeros_(norm.bias)
    assert (parts[0] - bare(x)).abs().max() < EXACT * whole.abs().max()
    found = orders(model, [x], 4)
    assert [item.order for item in found] == [0, 1, 2, 3, 4] and found[-1].partial < EXACT
    assert found[1].share == pytest.approx((length(parts[1]) / length(whole)).mean().item(), rel=EXACT)


def test_low_orders_need_few_networks_and_high_ones_of_deep_networks_are_refused() -> None:
    model = Model.from_graph(linear_toy(20), dtype=torch.float64)
    x = torch.ones(2, 5, dtype=torch.float64)
    low, _ = expansion(model, [x], 2)
    assert len(low) == 3
    with pytest.raises(UsageError, match=r"20 residual branches up to order 5 runs 21,700 networks"):
        expansion(model, [x], 5)


# -- other networks


def test_a_block_of_a_transformer_has_two_and_tokens_their_own_axes() -> None:
    draft = Draft()
    x = draft.add("input", (), "x", shape=[3, 8, 8])
    x = draft.add("tokens", draft.add("conv2d", x, "patch", out=8, kernel=4, stride=4), "tokens")
    for number in range(2):
        x = build_block(draft, x, f"b.{number}", {"block": "transformer", "options": {"heads": 2, "mlp": 16}})
    draft.output(x)
    model = Model.from_graph(draft.commit(), dtype=torch.float64)
    found = contributions(model, [samples()])
    assert [item.block for item in found] == ["b.0", "b.0", "b.1", "b.1"] and [i.depth for i in found] == [1, 2, 3, 4]
    tokens = model.eval().get_submodule("patch")(samples()).flatten(2).transpose(1, 2)
    kept = values_of(model.get_submodule("b.0.self_attention.out_proj"))
    model(samples())
    assert found[0].ratio.mean == pytest.approx((length(kept[0]) / length(tokens)).mean().item(), rel=EXACT)
    assert found[0].branch == pytest.approx(kept[0].var(dim=(0, 1), correction=0).mean().item(), rel=EXACT)


def test_imported_networks_are_measured_too() -> None:
    torchvision = pytest.importorskip("torchvision")
    resnet = torchvision.models.resnet.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=3)
    x = torch.randn(2, 3, 32, 32)
    model = from_module(resnet, x)
    kept = values_of(model.get_submodule("layer1.0.bn2"))
    found = contributions(model, [x], torch.tensor([0, 1]))
    assert len(found) == 4 and [item.projected for item in found] == [False, True, True, True]
    kept.clear()
    model.eval()(x)
    assert found[0].branch == pytest.approx(kept[0].var(dim=(0, 2, 3), correction=0).mean().item(), rel=1e-4)


def test_a_block_replaced_by_hand_cannot_be_looked_into() -> None:
    model = lived(small_resnet((1, 2)))
    stage = model.get_submodule("s2")
    stage.add_module("1", nn.Identity())
    model._adopt()
    with pytest.raises(UsageError, match=r"'?s2\.1"):
        contributions(model, [images(2, 8)])


def test_a_branch_that_only_training_runs_is_left_out() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=4, kernel=3, padding=1)
    x = basic_block(draft, x, "b.0", 4)
    aside = basic_block(draft, x, "aside.0", 4)
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=3))
    draft.output(draft.add("only", draft.add("global_avg_pool", aside, "pool_aside"), "training", mode="train"))
    graph = draft.commit()
    assert [item.block for item in residual_sums(graph)] == ["b.0", "aside.0"]
    [found] = contributions(Model.from_graph(graph), [images(4, 8)], torch.arange(4) % 3)
    assert found.block == "b.0" and found.gradient is not None


def test_wrong_arguments_are_refused() -> None:
    model, x = lived(small_resnet()), images(4, 8)
    with pytest.raises(UsageError, match="statistics 'batches' of batch norms: give 'running' or 'batch'"):
        model.analyze_residual(x, statistics="batches")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="this network has 1 input"):
        model.analyze_residual((x, x))
    with pytest.raises(UsageError, match="order -1"):
        model.analyze_residual(x, orders=-1)


def test_a_batch_of_one_has_no_statistics() -> None:
    with pytest.raises(UsageError, match="from 2 samples on"):
        contributions(lived(small_resnet()), [images(1, 8)], statistics="batch")


# -- what follows from the numbers


def contribution(ratio: float, **numbers: float) -> Contribution:
    about = {"stream": 1.0, "branch": 1.0, "total": 2.0, **numbers}
    return Contribution("b.add", "b", False, 1, Spread(ratio, ratio), Spread(0.5, 0.5), **about)


def test_path_mass_and_effective_depth() -> None:
    analysis = ResidualAnalysis((contribution(1.0),) * 3, 3, 4, "running")
    assert analysis.path_mass == 8 and analysis.effective_depth == 1.5  # half of all paths take a branch
    tenth = ResidualAnalysis((contribution(0.1),) * 10, 10, 4, "running")
    assert tenth.path_mass == pytest.approx(2.5937, abs=1e-4)
    assert effective_depth([math.inf, 0.0]) == 1.0
    # by brute force: branches of all paths, by their weight
    ratios = [0.3, 1.2, 0.05]
    weight = {chosen: math.prod(chosen) for size in range(4) for chosen in combinations(ratios, size)}
    mean = sum(len(chosen) * value for chosen, value in weight.items()) / sum(weight.values())
    assert effective_depth(ratios) == pytest.approx(mean, rel=EXACT)


def test_the_scale_at_the_end_of_a_branch_is_told() -> None:
    graph = pyramid((2, 1), 4, size=8, options="branch_scale: 0.25")
    found = Model.from_graph(graph).analyze_residual(images(4, 8), statistics="batch")
    assert [item.scale for item in found.sums] == [0.25] * 3 and found.scale_mass == 1.25**3
    assert found.sums[0].branch == pytest.approx(0.25**2, rel=1e-3)  # behind a batch norm
    learned = Model.from_graph(pyramid((2, 1), 4, size=8, options="branch_scale: skipinit"))
    with torch.no_grad():
        learned.get_submodule("s1.1.scale").weight.fill_(-0.5)
    found = learned.analyze_residual(images(4, 8))
    assert [item.scale for item in found.sums] == [0, -0.5, 0] and found.scale_mass == 1.5
    assert [item.ratio.median > 0 for item in found.sums] == [False, True, False]


def test_an_analysis_goes_through_json() -> None:
    model, x = lived(small_resnet((1, 2))), images(4, 8)
    found = contributions(model, [x], torch.arange(4) % 3)
    analysis = ResidualAnalysis(found, 3, 4, "running", "some weights", "noise", orders(model, [x], 1))
    assert ResidualAnalysis.from_json(analysis.to_json()) == analysis
    odd = ResidualAnalysis((contribution(math.inf, total=math.nan),), 1, 4, "running")
    assert odd.to_json()["sums"][0]["ratio"] == {"mean": None, "median": None}
    assert odd.to_json()["sums"][0]["variance"]["total"] is None


def test_at_initialization_batch_norms_bias_blocks_to_the_identity() -> None:
    """The variance of the l-th branch is about 1 / (l + 1) of the stream's (De and Smith, 2020): measured."""
    graph = pyramid((6,), 32, size=16, block="preact_basic")
    found = contributions(Model.from_graph(graph), [images(32, 16)], statistics="batch")[1:]
    for earlier, later in pairwise(found):
        assert later.variance_share < earlier.variance_share and later.total > earlier.total
    scale = found[0].branch / found[0].stream  # the convolutions' initialization sets what one branch adds
    assert scale < 2
    for item in found:
        assert item.variance_share == pytest.approx(item.expected_share, rel=0.5)


# -- L1 and the ratio


def changes(model: Model, other: Model, x: Tensor) -> float:
    """|difference of logits| / |logits|, with norms by the batch, as while training."""
    before, after = logits(model, x, training=True), logits(other, x, training=True)
    return ((after - before).norm() / before.norm()).item()


def test_l1_is_blind_to_a_convolution_that_a_norm_follows() -> None:
    """A quarter of a convolution's weights changes little; without its block the network is another one."""
    graph, x = pyramid((2, 2), 16, size=16), images(16, 16)
    model, quarter, gone = (lived(graph, 3) for _ in range(3))
    with torch.no_grad():
        quarter.get_submodule("s2.1.conv1").weight.mul_(0.25)
        nn.init.zeros_(gone.get_submodule("s2.1.bn2").weight)
        nn.init.zeros_(gone.get_submodule("s2.1.bn2").bias)
    assert changes(model, quarter, x) < 0.01 < 0.2 < changes(model, gone, x)  # measured: 9e-6 and 0.43
    before, after = (contributions(each, [x], statistics="batch")[3].ratio.median for each in (model, quarter))
    assert after == pytest.approx(before, rel=0.1)
