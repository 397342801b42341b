"""`Model.apply`: a rewrite, a pass at a site, or nn.Module's own meaning; all else is refused and changes nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from grown import pyramid
from torch import nn

from nasir.backends.torch import Model
from nasir.errors import Decline, UsageError
from nasir.passes import InsertBlock, RemoveBlock
from nasir.rewriting.rewrite import Pass


@pytest.fixture
def model() -> Model:
    return Model.from_graph(pyramid((1, 1), 4))


def test_a_function_is_applied_as_in_any_module(model: Model) -> None:
    def init_weights(module: nn.Module) -> None:
        visited.append(module)
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.5)

    visited: list[nn.Module] = []
    assert model.apply(init_weights) is model
    assert visited[-1] is model and set(visited) == set(model.modules()) and len(visited) == len(set(visited))
    assert all(bool((m.weight == 0.5).all()) for m in model.modules() if isinstance(m, nn.Conv2d))
    assert model.apply(fn=init_weights) is model  # the name that nn.Module gives it
    assert nn.Sequential(model).apply(init_weights)[0] is model


def children_first(module: nn.Module) -> list[nn.Module]:
    """The order in which nn.Module.apply visits modules."""
    return [inner for child in module.children() for inner in children_first(child)] + [module]


def test_apply_of_a_larger_net_visits_a_model_in_it_as_any_child(model: Model) -> None:
    net = nn.ModuleDict({"before": nn.Conv2d(1, 1, 1), "inner": nn.Sequential(model), "after": nn.Linear(2, 2)})
    for _ in range(2):
        visited: list[nn.Module] = []
        assert net.apply(visited.append) is net
        assert visited == children_first(net) and model in visited and {*model.modules()} < {*visited}
        model.apply(InsertBlock(init="zero"), "s1")  # the new block is visited the second time


class Visitor:
    """What libraries hand to apply: a callable object, and a method."""

    def __init__(self) -> None:
        self.visited: list[nn.Module] = []

    def __call__(self, module: nn.Module, note: str = "") -> str:
        self.visited.append(module)
        return note or "the result is ignored"


def test_every_kind_of_callable_has_the_meaning_of_nn_module(model: Model) -> None:
    for make in (lambda visitor: visitor, lambda visitor: visitor.__call__, lambda visitor: partial(visitor, note="x")):
        visitor = Visitor()
        assert model.apply(make(visitor)) is model
        assert visitor.visited == children_first(model)
    assert model.apply(nn.Module.eval) is model and not any(module.training for module in model.modules())


class CallablePass(RemoveBlock):
    """A pass that could be mistaken for a function."""

    def __call__(self, module: nn.Module) -> None:
        raise AssertionError(f"called on {module}")


def test_a_pass_or_a_rewrite_is_never_taken_for_a_function(model: Model) -> None:
    assert not callable(InsertBlock()) and not callable(InsertBlock().attempt(model.graph, "s1"))
    assert model.apply(InsertBlock(), "s1") is not None
    assert model.apply(CallablePass(), "s1") is not None and model.graph.depths()["s1"] == 1
    with pytest.raises(UsageError, match="give the site to act on, too"):
        model.apply(CallablePass())


def test_a_decline_is_none_and_tells_why(model: Model) -> None:
    heard: list[Decline] = []
    graph = model.graph
    assert model.apply(RemoveBlock(), "s2.0", on_decline=heard.append) is None
    assert RemoveBlock().apply(graph, "s2.0", on_decline=heard.append) is None
    assert model.apply(RemoveBlock(), "s2.0") is None and RemoveBlock().apply(graph, "s2.0") is None
    with pytest.raises(Decline) as refused:
        RemoveBlock().attempt(graph, "s2.0")
    assert len(heard) == 2 and {str(decline) for decline in heard} == {str(refused.value)} != {""}
    assert model.graph is graph


def test_the_reason_can_be_printed(model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    assert model.apply(RemoveBlock(), "s2.0", on_decline=print) is None
    assert capsys.readouterr().out == "stage 's2' has 1 block, floor 1\n"
    assert model.apply(InsertBlock(), "s2", on_decline=print) is not None
    assert capsys.readouterr().out == ""


def test_what_cannot_be_applied_is_refused_before_anything_changes(model: Model) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rewrite = InsertBlock().attempt(model.graph, "s1")
    cases: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((None,), {"optimizers": [optimizer]}, "no rewrite; a pass that declines gives None.*on_decline"),
        ((InsertBlock, "s1"), {}, r"the class of a pass; make one: InsertBlock\("),
        ((InsertBlock,), {}, r"the class of a pass; make one: InsertBlock\("),
        ((InsertBlock(),), {}, "InsertBlock.*give the site to act on, too; it has s1, s2, s1.0, s2.0"),
        (("insert-block", "s1"), {}, "expected a pass, a rewrite or a function, not 'insert-block'"),
        ((rewrite, "s2"), {}, "made for the site s1; leave out 's2'"),
        ((rewrite,), {"optimizers": optimizer}, r"write optimizers=\[optimizer\]"),
        ((nn.init.zeros_, "s1"), {}, "a function takes no site"),
        ((nn.init.zeros_,), {"optimizers": [optimizer]}, "a function takes no optimizers"),
    ]
    before, state = model.graph, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for arguments, options, message in cases:
        with pytest.raises(UsageError, match=message):
            model.apply(*arguments, **options)
    assert model.graph is before
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_a_pass_wants_the_graph_of_a_model(model: Model) -> None:
    for take in (Pass.apply, Pass.attempt):
        with pytest.raises(UsageError, match=r"a Graph, not a Model; that of a model is model\.graph"):
            take(InsertBlock(), model, "s1")  # type: ignore[arg-type]
