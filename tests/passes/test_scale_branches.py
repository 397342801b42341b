"""`scale-branches`: residual branches of networks that exist, scaled by a node or by their own weights."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from grown import images, lived, logits, pyramid
from torch import nn

import nasir
from nasir.analysis.residuals import residual_sums
from nasir.backends.torch import Model
from nasir.cli.main import main
from nasir.errors import Decline, OptionError
from nasir.ir import Draft, Graph, Port
from nasir.ir.source import Key
from nasir.passes.insert_block import InsertBlock
from nasir.passes.remove_block import RemoveBlock
from nasir.passes.scale_branches import ScaleBranches
from nasir.rewriting.rewrite import Rewrite
from nasir.testing import PassContract


class TestInsertContract(PassContract):
    make = staticmethod(lambda: ScaleBranches(to="1/n"))

    def graphs(self) -> list[Graph]:
        return [pyramid((1, 2), 4, size=8), pyramid((2, 1), 4, block="preact_basic", size=8)]


class TestFoldContract(PassContract):
    make = staticmethod(lambda: ScaleBranches(to="present", how="fold"))

    def graphs(self) -> list[Graph]:
        return [
            pyramid((1, 2), 4, options="branch_scale: 1/sqrt(n)", size=8),
            pyramid((1, 1), 4, block="resbuilder", options="branch_scale: 0.5", size=8),
            pyramid((2, 1), 4, block="preact_basic", options="norm: none, branch_scale: fischer", size=8),
        ]


class TestKeepFunctionContract(PassContract):
    make = staticmethod(lambda: ScaleBranches(to="fischer", keep_function=True))

    def graphs(self) -> list[Graph]:
        return [pyramid((1, 2), 4, size=8), pyramid((1, 1), 4, block="resbuilder", size=8)]


def double(graph: Graph) -> Model:
    """A network whose weights and statistics have moved, in float64."""
    return lived(graph).double()


def both(model: Model) -> list[torch.Tensor]:
    x = images(size=8).double()
    return [logits(model, x, training) for training in (False, True)]


def close(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(bool((a - b).abs().max() <= 1e-12 * a.abs().max()) for a, b in zip(one, other, strict=True))


def constants(graph: Graph) -> dict[str, Any]:
    found = {}
    for item in residual_sums(graph):
        node = graph.nodes[item.branch.node]
        if node.facts.family == "scale":
            found[node.label] = node.attrs["value"]
    return found


UNSCALED = [
    ("basic", ""),
    ("basic", "norm: none"),
    ("preact_basic", ""),
    ("preact_basic", "norm: none"),
    ("resbuilder", ""),
    ("basic", "shortcut: pad"),
]
BLOCKS = [*UNSCALED, ("preact_basic", "branch_scale: skipinit, norm: none")]


def plain_and_scaled(block: str, options: str) -> tuple[Model, Model]:
    """The same network twice: its branches added as they are, and multiplied by 0.25."""
    plain = double(pyramid((1, 2), 4, block=block, options=options, size=8))
    given = f"{options}, branch_scale: 0.25" if options else "branch_scale: 0.25"
    scaled = Model.from_graph(pyramid((1, 2), 4, block=block, options=given, size=8), seed=0).double()
    scaled.load_state_dict(plain.state_dict())
    return plain, scaled


# -- insert


@pytest.mark.parametrize(("block", "options"), UNSCALED)
def test_inserting_gives_the_network_that_its_option_would_have(block: str, options: str) -> None:
    plain, scaled = plain_and_scaled(block, options)
    wanted = both(scaled)
    rewrite = plain.apply(ScaleBranches(to=0.25), "network")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "no"
    assert plain.graph.digest == scaled.graph.digest
    assert all(torch.equal(a, b) for a, b in zip(both(plain), wanted, strict=True))


@pytest.mark.parametrize(("to", "value"), [("1/n", 1 / 3), ("1/sqrt(n)", 3**-0.5), ("fischer", 0.7908755820535631)])
def test_rules_count_the_sums_of_the_whole_network(to: str, value: float) -> None:
    graph = pyramid((1, 2), 4, size=8)
    rewrite = ScaleBranches(to=to).attempt(graph, "s2")
    assert constants(rewrite.graph) == {"s2.0.scale": pytest.approx(value), "s2.1.scale": pytest.approx(value)}
    assert rewrite.noted["remark"] == f"2 residual sums, branch scale {value:.4g}, n = 3"


def test_a_constant_that_is_there_is_replaced_and_what_is_as_it_should_be_stays() -> None:
    graph = pyramid((1, 1), 4, options="branch_scale: 0.5", size=8)
    rewrite = ScaleBranches(to="1/n").attempt(graph, "network")
    assert set(rewrite.graph.nodes) == set(graph.nodes)
    assert constants(rewrite.graph) == {"s1.0.scale": 1 / 2, "s2.0.scale": 1 / 2} or graph.depths() != {
        "s1": 1,
        "s2": 1,
    }
    again = rewrite.graph
    with pytest.raises(Decline, match="nothing to change"):
        ScaleBranches(to="1/n").attempt(again, "network")
    assert constants(ScaleBranches(to=0.1).attempt(again, "s1.0").graph)["s1.0.scale"] == 0.1


def test_skipinit_from_one_is_exact_and_from_zero_silences_the_branches() -> None:
    model = double(pyramid((1, 2), 4, block="preact_basic", size=8))
    before = both(model)
    rewrite = model.apply(ScaleBranches(to={"skipinit": 1.0}), "network")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert all(torch.equal(a, b) for a, b in zip(both(model), before, strict=True))
    assert [name for name, _ in model.named_parameters() if "scale" in name] == [
        f"s{stage}.scale.weight" for stage in ("1.0", "2.0", "2.1")
    ]
    silent = double(pyramid((2,), 4, block="preact_basic", size=8))
    silent.apply(ScaleBranches(to="skipinit"), "network")
    shorter = both(silent)
    silent.apply(RemoveBlock(), "s1.1")
    assert all(torch.equal(a, b) for a, b in zip(both(silent), shorter, strict=True))


@pytest.mark.parametrize(("block", "options"), BLOCKS)
@pytest.mark.parametrize("to", ["1/n", -0.5, {"skipinit": 0.1}])
def test_with_keep_function_the_weights_make_up_for_the_scale(block: str, options: str, to: Any) -> None:
    model = double(pyramid((1, 2), 4, block=block, options=options, size=8))
    if block == "resbuilder" and to == -0.5:
        with pytest.raises(Decline, match=r"a factor of -2 does not go through 's1.0.relu2' \(relu\)"):
            ScaleBranches(to=to, keep_function=True).attempt(model.graph, "network")
        return
    before = both(model)
    rewrite = model.apply(ScaleBranches(to=to, keep_function=True), "network")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert close(both(model), before)
    assert all(value != 1.0 for value in constants(model.graph).values())


# -- fold


@pytest.mark.parametrize(("block", "options"), UNSCALED)
def test_folding_gives_the_function_of_the_scaled_network_without_its_nodes(block: str, options: str) -> None:
    plain, scaled = plain_and_scaled(block, options)
    wanted, digest = both(scaled), plain.graph.digest
    rewrite = plain.apply(ScaleBranches(to=0.25, how="fold"), "network")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "no" and plain.graph.digest == digest
    assert close(both(plain), wanted)
    rewrite = scaled.apply(ScaleBranches(to="present", how="fold"), "network")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact" and scaled.graph.digest == digest
    assert close(both(scaled), wanted)


def test_folding_takes_the_constants_of_both_branches_of_a_transformers_block() -> None:
    spec = """\
nasir: 1
name: tokens
input: {image: [3, 8, 8]}
network:
  - patchify: {out: 8, patch: 4}
  - stage: {name: s1, block: transformer, heads: 2, depth: 2, branch_scale: 1/n}
  - classifier: {classes: 10}
data: {dataset: digits}
phases:
  - {name: train, epochs: 1, optimizer: {sgd: {lr: 0.1}}}
"""
    model = double(nasir.build(spec))
    before = both(model)
    model.apply(ScaleBranches(to="present", how="fold"), "s1")
    assert close(both(model), before) and constants(model.graph) == {}


def test_the_learned_numbers_at_the_end_of_fixups_branches_take_the_factor() -> None:
    model = lived(pyramid((1, 2), 4, block="fixup_basic", size=8), dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():  # they start at zero, where nothing would show
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64) * 0.1)
    model.apply(ScaleBranches(to=0.25), "network")
    before = both(model)
    rewrite = model.apply(ScaleBranches(to="present", how="fold"), "network")
    assert isinstance(rewrite, Rewrite) and rewrite.preserves == "exact"
    assert close(both(model), before) and constants(model.graph) == {}


def gated(shared: bool) -> Graph:
    """A block whose branch is a product of two halves of one convolution, or of a convolution and a gate."""
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=4, kernel=3, padding=1)
    y = draft.add("conv2d", x, "s1.0.conv", out=8 if shared else 4, kernel=3, padding=1)
    if shared:
        first = draft.add("split", y, "s1.0.halves", sizes=[4, 4])
        y = draft.add("mul", (first, Port(first.node, 1)), "s1.0.mul")
    else:
        gate = draft.add("sigmoid", draft.add("conv2d", x, "s1.0.gate", out=4, kernel=1), "s1.0.sigmoid")
        y = draft.add("mul", (y, gate), "s1.0.mul")
    x = draft.add("add", (x, y), "s1.0.add")
    draft.region("s1.0", "block")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=10))
    return draft.commit()


def test_one_factor_of_a_product_takes_the_factor_but_not_both() -> None:
    model = double(gated(shared=False))
    scaled = ScaleBranches(to=0.5).attempt(model.graph, "s1.0").graph
    twin = Model.from_graph(scaled, seed=0).double()
    twin.load_state_dict(model.state_dict())
    model.apply(ScaleBranches(to=0.5, how="fold"), "s1.0")
    assert close(both(model), both(twin))
    with pytest.raises(Decline, match=r"block 's1.0': 's1.0.mul' multiplies what the same weights give"):
        ScaleBranches(to=0.5, how="fold").attempt(gated(shared=True), "s1.0")


def test_a_learned_scale_that_is_borrowed_is_no_constant() -> None:
    graph = pyramid((2,), 4, block="preact_basic", options="branch_scale: {skipinit: 0.5}", size=8)
    draft = graph.draft()
    first, second = graph.find("s1.0.scale"), graph.find("s1.1.scale")
    draft.tie(Key(second, "weight"), Key(first, "weight"))
    tied = draft.commit()
    with pytest.raises(Decline, match=r"block 's1.1': the branch ends in 's1.1.scale' \(scale\), which has no"):
        ScaleBranches(to=0.25, how="fold").attempt(tied, "s1.1")
    again = ScaleBranches(to=0.25).attempt(tied, "s1.1").graph
    assert second in again.nodes and constants(again)["s1.1.scale_2"] == 0.25


def test_weights_that_are_scaled_for_a_number_follow_it() -> None:
    plain = double(pyramid((1, 2), 4, size=8))
    plain.apply(ScaleBranches(to="1/sqrt(n)", how="fold"), "network")
    twin = Model.from_graph(plain.graph, seed=0).double()
    twin.load_state_dict(plain.state_dict())
    plain.apply(InsertBlock(init="zero"), "s1")
    twin.apply(InsertBlock(init="zero"), "s1")
    plain.apply(ScaleBranches(to="1/sqrt(n)", how="fold", scaled_for=3), "s2")
    twin.apply(ScaleBranches(to=(3 / 4) ** 0.5, how="fold"), "s2")
    assert close(both(plain), both(twin))


def test_a_factor_before_a_norm_does_nothing_so_nothing_is_folded_there() -> None:
    draft = Draft()
    x = draft.add("conv2d", draft.add("input", (), "x", shape=[3, 8, 8]), "stem", out=4, kernel=3, padding=1)
    y = draft.add("conv2d", x, "s1.0.conv", out=4, kernel=3, padding=1)
    y = draft.add("batch_norm", y, "s1.0.norm", affine=False)
    x = draft.add("add", (x, y), "s1.0.add")
    draft.region("s1.0", "block")
    draft.output(draft.add("linear", draft.add("global_avg_pool", x, "pool"), "fc", out=10))
    graph = draft.commit()
    with pytest.raises(
        Decline, match=r"block 's1.0': the branch ends in 's1.0.norm' \(batch_norm\), which has no weights"
    ):
        ScaleBranches(to=0.5, how="fold").attempt(graph, "s1.0")
    assert constants(ScaleBranches(to=0.5).attempt(graph, "s1.0").graph) == {"s1.0.scale": 0.5}


def test_optimizer_state_follows_the_folded_weights() -> None:
    model = lived(pyramid((1, 1), 4, size=8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    nn.functional.cross_entropy(model(images(size=8)), torch.arange(4)).backward()
    optimizer.step()
    weight = model.get_parameter("s1.0.bn2.weight")
    value, moment = weight.detach().clone(), optimizer.state[weight]["momentum_buffer"].clone()
    model.apply(ScaleBranches(to=0.5, how="fold"), "s1.0", optimizers=[optimizer])
    weight = model.get_parameter("s1.0.bn2.weight")
    assert torch.equal(weight, value * 0.5)
    assert torch.allclose(optimizer.state[weight]["momentum_buffer"], moment / 0.5)  # gradients are 1 / 0.5 times


def test_what_is_shared_frozen_or_read_elsewhere_is_not_folded() -> None:
    graph = pyramid((1, 1), 4, options="norm: none", size=8)
    frozen = graph.draft()
    frozen.freeze("s1.0.conv2")
    with pytest.raises(Decline, match=r"block 's1.0': 's1.0.conv2' is frozen"):
        ScaleBranches(to=0.5, how="fold").attempt(frozen.commit(), "s1.0")
    tied = graph.draft()
    first, second = graph.find("s1.0.conv1"), graph.find("s1.0.conv2")
    tied.tie(Key(first, "weight"), Key(second, "weight"))
    with pytest.raises(Decline, match=r"block 's1.0': 's1.0.conv2' shares its weights"):
        ScaleBranches(to=0.5, how="fold").attempt(tied.commit(), "s1.0")
    read = graph.draft()
    total = Port(graph.find("s1.0.add"))
    more = read.add("add", (total, Port(second)), "s1.0.more")
    read.rewire_node(graph.find("s1.0.relu_out"), [more])
    with pytest.raises(Decline, match=r"block 's1.0': 's1.0.conv2' is read by others"):
        ScaleBranches(to=0.5, how="fold").attempt(read.commit(), "s1.0")


# -- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"to": "skipinit", "how": "fold"}, "cannot be folded"),
        ({"to": "present"}, "use how: fold"),
        ({"to": "present", "how": "fold", "keep_function": True}, "leave it away"),
        ({"to": "skipinit", "keep_function": True}, "scale of 0"),
        ({"to": 0.5, "how": "fold", "scaled_for": 4}, "leave it away"),
        ({"to": "1/n", "scaled_for": 4}, "leave it away"),
        ({"to": "1/sqr(n)"}, "did you mean '1/sqrt(n)'"),
        ({}, "required"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message.replace("(", r"\(").replace(")", r"\)")):
        ScaleBranches(**options)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("scale-branches: {to: 1/srqt(n)}", "do.scale-branches.to: expected one of 1/n, 1/sqrt(n), fischer, skipinit"),
        ("scale-branches: {to: 1/srqt(n)}", "did you mean '1/sqrt(n)'?"),
        ("scale-branches: {to: 1/n, how: fol}", "do.scale-branches.how: unknown value 'fol'; did you mean 'fold'?"),
        ("scale-branches: {to: {skipint: 1}}", "skipint: unknown value 'skipint'; did you mean 'skipinit'?"),
        ("scale-branches: {to: present}", "to: present leaves all as it is with how: insert; use how: fold"),
        ("insert-block: {branch_scale: rescal}", "do.insert-block.branch_scale: unknown value 'rescal'"),
    ],
)
def test_wrong_options_are_told_at_their_line_of_the_spec(
    rule: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(
        "nasir: 1\nname: wrong\ninput: {image: [3, 8, 8]}\nnetwork:\n"
        "  - stage: {name: s1, block: basic, out: 4, depth: 2, branch_scale: 1/n}\n  - classifier: {classes: 4}\n"
        "data: {dataset: synthetic, options: {channels: 3}}\nphases:\n"
        "  - name: train\n    epochs: 1\n    optimizer: {sgd: {lr: 0.1}}\n    rules:\n"
        f"      - every: 1 epochs\n        do: {{{rule}}}\n"
    )
    assert main(["check", str(path)]) != 0
    answer = capsys.readouterr()
    assert "wrong.yaml:14:" in answer.out + answer.err and told in answer.out + answer.err


def test_a_network_without_residual_sums_has_no_site() -> None:
    graph = pyramid((1, 1), 4, block="plain", size=8)
    assert list(ScaleBranches(to=0.5).sites(graph)) == []
    with pytest.raises(Decline, match="no residual sum lies in 's1'"):
        ScaleBranches(to=0.5).attempt(graph, "s1")


# -- growth


@pytest.mark.parametrize("policy", ["keep", "rescale"])
@pytest.mark.parametrize("rule", ["1/n", "1/sqrt(n)", "fischer"])
def test_growing_from_one_block_to_many(policy: str, rule: str) -> None:
    from nasir.analysis.branch_scales import RULES

    model = double(pyramid((1,), 4, block="preact_basic", options=f"branch_scale: {rule}", size=8))
    of = [RULES[rule](n) for n in range(1, 6)]
    for n in range(2, 6):
        before = both(model)
        rewrite = model.apply(InsertBlock(init="zero", branch_scale=policy), "s1")
        assert isinstance(rewrite, Rewrite) and rewrite.preserves == ("exact" if policy == "keep" else "no")
        assert all(torch.equal(a, b) for a, b in zip(both(model), before, strict=True)) is (policy == "keep")
        wanted = of[:n] if policy == "keep" else [of[n - 1]] * n
        assert list(constants(model.graph).values()) == pytest.approx(wanted, rel=1e-15)


def test_rescaled_growth_ends_at_the_network_that_is_built_at_once() -> None:
    graph = pyramid((1, 1), 4, options="branch_scale: 1/sqrt(n)", size=8)
    for site in ("s1", "s2"):
        rewrite = InsertBlock(init="gaussian", branch_scale="rescale").apply(graph, site)
        assert rewrite is not None
        graph = rewrite.graph
    assert graph.digest == pyramid((2, 2), 4, options="branch_scale: 1/sqrt(n)", size=8).digest


@pytest.mark.parametrize("block", [None, "copy"])
def test_a_copied_block_has_the_constant_of_its_own_and_the_weights_of_its_model(block: Any) -> None:
    model = double(pyramid((2,), 4, options="branch_scale: 1/n", size=8))
    rewrite = model.apply(InsertBlock(init="copy", block=block), "s1")
    assert isinstance(rewrite, Rewrite) and "remark" not in rewrite.noted
    assert list(constants(model.graph).values()) == pytest.approx([1 / 2, 1 / 2, 1 / 3])
    assert torch.equal(model.get_parameter("s1.2.conv1.weight"), model.get_parameter("s1.1.conv1.weight"))


def test_what_was_inserted_scales_new_blocks_too() -> None:
    graph = ScaleBranches(to="1/n").attempt(pyramid((1, 1), 4, size=8), "network").graph
    grown = InsertBlock(branch_scale="rescale").attempt(graph, "s2").graph
    assert constants(grown) == dict.fromkeys(["s1.0.scale", "s2.0.scale", "s2.1.scale"], 1 / 3)
    learned = ScaleBranches(to={"skipinit": 0.2}).attempt(grown, "s2").graph
    more = InsertBlock(init="default").attempt(learned, "s2").graph
    assert more.nodes[more.find("s2.2.scale")].attrs == {"value": 0.2, "learnable": True}


def test_a_template_of_blocks_that_are_not_installed_is_left_alone() -> None:
    graph = pyramid((2,), 4, size=8)
    draft = graph.draft()
    draft.regions["s1"] = replace(draft.regions["s1"], template={"block": "somebodys", "options": {}})
    scaled = ScaleBranches(to="1/n").attempt(draft.commit(), "network").graph
    assert scaled.regions["s1"].template == {"block": "somebodys", "options": {}}
    assert constants(scaled) == {"s1.0.scale": 0.5, "s1.1.scale": 0.5}


# -- imports


class Block(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.factor = factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(torch.relu(self.conv1(torch.relu(x)))) / self.factor


def imported(factor: float) -> Model:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Sequential(Block(factor), Block(factor)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 10),
    )
    return nasir.from_module(net, torch.randn(2, 3, 8, 8)).double()


@pytest.mark.parametrize("how", ["insert", "fold"])
def test_a_constant_of_an_imported_module_is_replaced(how: str) -> None:
    model, wanted = imported(4.0), imported(2.0)
    assert len(residual_sums(model.graph)) == 2
    model.apply(ScaleBranches(to="1/n", how=how), "network")
    assert close(both(model), both(wanted))
    assert len(constants(model.graph)) == (2 if how == "insert" else 0)
    model.apply(InsertBlock(init="default"), next(stage.path for stage in model.graph.stages))
    assert len(residual_sums(model.graph)) == 3


class Learned(nn.Module):
    """A block whose branch ends in a number a channel that is learned (LayerScale)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.gamma = nn.Parameter(torch.full((4, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv(torch.relu(x)) * self.gamma


@pytest.mark.parametrize("how", ["insert", "fold"])
def test_a_learned_scale_of_an_imported_module_stays_and_takes_the_factor(how: str) -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(Learned(), Learned())
    net = nn.Sequential(nn.Conv2d(3, 4, 3), blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    model = nasir.from_module(copy.deepcopy(net), torch.randn(2, 3, 8, 8)).double()
    with torch.no_grad():
        for block in blocks:
            block.gamma.mul_(0.25)
    wanted = net.double().eval()(images(size=8).double())
    model.apply(ScaleBranches(to=0.25, how=how), "network")
    assert close([logits(model, images(size=8).double())], [wanted])
    gamma = next(value for name, value in model.named_parameters() if "gamma" in name)
    assert gamma.flatten().tolist() == [0.5 if how == "insert" else 0.125] * 4
