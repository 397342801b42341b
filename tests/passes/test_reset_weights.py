"""`reset-weights`: everything of a place starts anew, and nothing else."""

from __future__ import annotations

import pytest
import torch
from grown import lived, pyramid

from nasir.backends.torch import Model
from nasir.errors import Decline
from nasir.passes.reset_weights import ResetWeights
from nasir.spec import loads_spec
from nasir.spec.network import build
from nasir.testing import PassContract

GRAPH = pyramid((1, 1), 4, size=8, classes=3)


class TestResetWeights(PassContract):
    make = staticmethod(lambda: ResetWeights())


class TestResetWithInitializer(PassContract):
    make = staticmethod(lambda: ResetWeights(init="glorot_uniform"))


def reset(site: str, **options: object) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Model]:
    model = lived(GRAPH)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rewrite = model.apply(ResetWeights(**options), site, optimizers=[optimizer])  # type: ignore[arg-type]
    assert rewrite is not None and rewrite.preserves == "no"
    held = {id(p) for p in optimizer.state}
    for name, parameter in model.named_parameters():
        assert (id(parameter) in held) is torch.equal(before[name], parameter.detach()), "state goes with the weights"
    return before, dict(model.state_dict()), model


def test_a_region_is_reset_and_the_rest_keeps_weights_and_moments() -> None:
    before, after, _ = reset("s1.0")
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same is not name.startswith("s1.0") or name.endswith("num_batches_tracked"), name
    assert torch.equal(after["s1.0.bn1.running_var"], torch.ones(4)) and not after["s1.0.bn1.running_mean"].any()
    assert int(after["s1.0.bn1.num_batches_tracked"]) == 0


def test_the_whole_network_keeps_what_is_to_be_kept() -> None:
    before, after, _ = reset("network", keep=("fc", "s1.0.conv1"))
    kept = {name for name in before if torch.equal(before[name], after[name]) and before[name].ndim}
    assert kept == {"fc.weight", "fc.bias", "s1.0.conv1.weight"}
    before, after, _ = reset("network", paths=("fc", "bn1"))
    changed = {name for name in before if not torch.equal(before[name], after[name]) and before[name].ndim}
    assert {name.partition(".")[0] for name in changed} == {"fc", "bn1"}


def test_weights_start_anew_by_the_initializer_of_the_spec_unless_the_pass_names_one() -> None:
    text = (
        "nasir: 1\nname: x\ninit: he_normal\ninput: {image: [3, 8, 8]}\nnetwork:\n  - conv_bn_relu: {out: 64}\n"
        "  - stage: {name: s1, block: basic, out: 64}\n  - classifier: {classes: 3}\ndata: {dataset: synthetic}\n"
        "phases:\n  - {name: p, epochs: 1, optimizer: {sgd: {lr: 0.1}}}\n"
    )
    model = Model.from_graph(build(loads_spec(text)))
    model.apply(ResetWeights(), "network")
    for name in ("conv1.weight", "s1.0.conv1.weight"):  # He et al. 2015, fan out: std = sqrt(2 / (9 * 64))
        assert abs(float(model.get_parameter(name).detach().std()) - (2 / 576) ** 0.5) < 0.004, name
    rules = {
        key.slot: s.rule for key, s in ResetWeights(init="default").attempt(model.graph, "s1.0").plan.sources.items()
    }
    assert rules["weight"] in ("kaiming_uniform", "ones")


def test_frozen_weights_stay() -> None:
    draft = GRAPH.draft()
    draft.freeze("s1")
    graph = draft.commit()
    rewrite = ResetWeights().attempt(graph, "network")
    assert not {key.node for key in rewrite.plan.sources} & set(graph.members("s1"))
    with pytest.raises(Decline, match="no weight that may change lies there"):
        ResetWeights().attempt(graph, "s1.0")


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="no initializer is called 'he_norml'; did you mean 'he_normal'"):
        ResetWeights(init="he_norml")
    with pytest.raises(Decline, match="nothing is labelled 'fx' or below it"):
        ResetWeights(keep=("fx",)).attempt(GRAPH, "network")
