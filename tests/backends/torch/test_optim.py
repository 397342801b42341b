"""Every parameter in exactly one group by its tags; state by name; the moving average comes and goes exactly."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nasir.backends.torch.optimizers.groups import Tagged, build_optimizer, decays, fuses, set_lr
from nasir.backends.torch.optimizers.kinds import kinds_of
from nasir.backends.torch.optimizers.named import export_state, import_state
from nasir.backends.torch.train.ema import Ema
from nasir.errors import CheckpointError, GraphError
from nasir.training.plans import OptimizerPlan


def _model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def _tagged(model: nn.Module) -> list[Tagged]:
    tags = {"weight": frozenset({"decay"}), "bias": frozenset({"bias"})}
    tagged = []
    for name, parameter in model.named_parameters():
        kind = tags[name.split(".")[1]]
        norm = {"1.weight": frozenset({"norm"}), "1.bias": frozenset({"norm", "bias"})}
        tagged.append((name, parameter, norm.get(name, kind)))
    return tagged


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int = 5) -> None:
    random = torch.Generator().manual_seed(seed)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(6, 1, 4, 4, generator=random)).square().mean().backward()
        optimizer.step()


def _decayed(plan: OptimizerPlan) -> set[str]:
    groups = build_optimizer(_tagged(_model()), plan).param_groups
    return {name for group in groups if group["weight_decay"] > 0 for name in group["param_names"]}


def test_switches_decide_which_parameters_decay() -> None:
    weights, biases, norms = {"0.weight", "4.weight"}, {"0.bias", "4.bias"}, {"1.weight"}
    both = {"1.bias"}

    def plan(norms_too: bool, biases_too: bool) -> OptimizerPlan:
        return OptimizerPlan(weight_decay=1e-2, decay_norms=norms_too, decay_biases=biases_too)

    assert _decayed(plan(True, True)) == weights | biases | norms | both
    assert _decayed(plan(False, True)) == weights | biases
    assert _decayed(plan(True, False)) == weights | norms
    assert _decayed(plan(False, False)) == weights
    assert not decays(frozenset({"scalar"}), plan(True, True))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_every_parameter_is_in_exactly_one_group(kind: str) -> None:
    model = _model()
    optimizer = build_optimizer(_tagged(model), OptimizerPlan(kind, weight_decay=0.1, decay_norms=False))
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    for group in optimizer.param_groups:
        named = dict(model.named_parameters())
        assert [id(named[name]) for name in group["param_names"]] == [id(p) for p in group["params"]]


def test_an_empty_group_is_kept_for_parameters_to_come() -> None:
    optimizer = build_optimizer(_tagged(_model()), OptimizerPlan())
    assert [group["name"] for group in optimizer.param_groups] == ["decay", "no_decay"]
    assert optimizer.param_groups[1]["params"] == []
    copy = build_optimizer(_tagged(_model()), OptimizerPlan())
    copy.load_state_dict(optimizer.state_dict())


def test_a_parameter_given_twice_is_refused() -> None:
    tagged = _tagged(_model())
    with pytest.raises(GraphError, match=r"given twice: 0\.weight"):
        build_optimizer([*tagged, tagged[0]], OptimizerPlan())
    with pytest.raises(GraphError, match="tied tensor"):
        build_optimizer([*tagged, ("other", tagged[0][1], frozenset())], OptimizerPlan())


def test_sgd_equals_the_textbook_step() -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    plan = OptimizerPlan("sgd", lr=0.5, momentum=0.9, nesterov=True, weight_decay=0.1)
    optimizer = build_optimizer([("w", weight, frozenset({"decay"}))], plan)
    weight.grad = torch.tensor([0.2, 0.4], dtype=torch.float64)
    slope = weight.grad + 0.1 * weight.detach()
    wanted = weight.detach() - 0.5 * (slope + 0.9 * slope)
    optimizer.step()
    assert torch.allclose(weight, wanted, rtol=0, atol=1e-15)


def test_set_lr_reaches_every_group() -> None:
    optimizer = build_optimizer(_tagged(_model()), OptimizerPlan())
    set_lr(optimizer, 0.03)
    assert [group["lr"] for group in optimizer.param_groups] == [0.03, 0.03]


@pytest.mark.parametrize(
    "options", [{"kind": "sgd"}, {"kind": "sgd", "momentum": 0.0}, {"kind": "adam"}, {"kind": "adamw"}]
)
def test_state_goes_by_name_and_training_goes_on_bit_for_bit(options: dict[str, Any]) -> None:
    plan = OptimizerPlan(lr=0.01, weight_decay=0.01, decay_norms=False, **options)
    model = _model()
    optimizer = build_optimizer(_tagged(model), plan)
    _steps(model, optimizer, 3)
    state = {
        name: {k: t.clone() for k, t in values.items()}
        for name, values in export_state(optimizer, model.named_parameters()).items()
    }
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _steps(model, optimizer, 2, seed=9)

    other = _model(seed=1)
    other.load_state_dict(weights)
    fresh = build_optimizer(reversed(_tagged(other)), plan)  # another order: only names connect
    import_state(fresh, state, other.named_parameters())
    _steps(other, fresh, 2, seed=9)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name


def test_parameters_absent_from_the_state_start_empty() -> None:
    model = _model()
    optimizer = build_optimizer(_tagged(model), OptimizerPlan("adam"))
    _steps(model, optimizer, 1)
    state = export_state(optimizer, [("4.weight", model.get_parameter("4.weight"))])
    assert set(state) == {"4.weight"} and set(state["4.weight"]) == {"step", "exp_avg", "exp_avg_sq"}
    import_state(optimizer, state, model.named_parameters())
    assert set(export_state(optimizer, model.named_parameters())) == {"4.weight"}


def test_state_of_another_network_is_refused() -> None:
    model = _model()
    optimizer = build_optimizer(_tagged(model), OptimizerPlan())
    with pytest.raises(CheckpointError, match=r"for 9\.weight"):
        import_state(optimizer, {"9.weight": {"momentum_buffer": torch.zeros(1)}}, model.named_parameters())
    with pytest.raises(CheckpointError, match=r"has shape \(2,\)"):
        import_state(optimizer, {"0.weight": {"momentum_buffer": torch.zeros(2)}}, model.named_parameters())


def test_the_average_follows_its_formula_and_copies_counters() -> None:
    model = _model()
    ema = Ema(model, 0.75, warmup=False)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    _steps(model, build_optimizer(_tagged(model), OptimizerPlan()), 1)
    ema.update(model)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(ema.tensors[name], 0.75 * start[name] + 0.25 * tensor, atol=1e-6), name
    assert int(ema.tensors["1.num_batches_tracked"]) == 1


def test_the_decay_of_an_average_warms_up_and_is_then_what_it_was_given() -> None:
    model = nn.Linear(1, 1, bias=False).double()
    ema, wanted = Ema(model, 0.75), float(model.weight.detach())
    for step in range(60):
        with torch.no_grad():
            model.weight.fill_(float(step % 7))
        ema.update(model)
        decay = min(0.75, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * (step % 7)
        assert float(ema.tensors["weight"]) == pytest.approx(wanted, rel=1e-9)
    assert ema.updates == 60 and ema.present_decay == 0.75


def test_the_state_of_an_average_goes_on_counting_and_an_older_one_has_a_constant_decay() -> None:
    model = _model()
    ema = Ema(model, 0.99)
    ema.update(model)
    other = Ema(model, 0.5, warmup=False)
    other.load_state_dict(ema.state_dict())
    assert (other.decay, other.warmup, other.updates) == (0.99, True, 1)
    other.load_state_dict({"decay": 0.9, "tensors": ema.tensors})
    assert (other.decay, other.warmup, other.present_decay) == (0.9, False, 0.9)


def test_a_follower_updates_as_update_does_and_notices_what_takes_a_place() -> None:
    models = [_model(), _model()]
    averages = [Ema(model, 0.75) for model in models]
    follow = averages[0].follower(models[0])
    for number in range(4):
        if number == 2:
            for model in models:
                model[4].weight = nn.Parameter(torch.full_like(model[4].weight, 2.0))
                model[1].running_mean = torch.full_like(model[1].running_mean, 3.0)
                model[0].weight.data = torch.full_like(model[0].weight, 4.0)
        for model in models:
            with torch.no_grad():
                for tensor in model.state_dict().values():
                    tensor.add_(1)
        follow()
        averages[1].update(models[1])
    for name, tensor in averages[0].tensors.items():
        assert torch.equal(tensor, averages[1].tensors[name]), name


def test_stored_averages_are_laid_out_as_the_weights_are() -> None:
    """As moments are: torch moves a list of tensors at once only where each lies like its partner."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    ema = Ema(model, 0.9)
    stored = {name: torch.rand(tensor.shape).to(tensor.dtype) for name, tensor in model.state_dict().items()}
    assert stored["0.weight"].stride() != model[0].weight.stride()
    ema.load(stored)
    for name, tensor in model.state_dict().items():
        assert torch.equal(ema.tensors[name], stored[name]) and ema.tensors[name].stride() == tensor.stride(), name
        assert ema.tensors[name].data_ptr() != stored[name].data_ptr(), name


def test_moments_of_a_single_weight_are_no_counters() -> None:
    """A layer scaled by one number has 0-d moments: they live with it, Adam's counter on the CPU."""
    single, many = torch.zeros((), device="meta"), torch.zeros(3, device="meta")
    number = torch.tensor(2.0)
    plain = kinds_of(torch.optim.NAdam([torch.zeros(1, requires_grad=True)]))
    assert plain.of("exp_avg", number, single) == "first"
    assert plain.of("step", number, single) == plain.of("step", number, many) == "scalar"
    assert plain.of("mu_product", number, many) == "scalar"
    scale = nn.Parameter(single)
    optimizer = build_optimizer([("scale", scale, frozenset())], OptimizerPlan("adam"))
    import_state(optimizer, {"scale": {"step": number, "exp_avg": number, "exp_avg_sq": number}}, [("scale", scale)])
    places = {key: value.device.type for key, value in optimizer.state[scale].items()}
    assert places == {"step": "cpu", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_fused_kernels_are_for_cuda_devices_alone() -> None:
    assert not fuses([torch.zeros(1)]) and not fuses([])
    assert not fuses([torch.zeros(1), torch.zeros(1, device="meta")])


def test_a_changed_decay_counts_from_the_next_update() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = Ema(model, 0.5)
    before = float(ema.tensors["weight"])
    ema.decay = 0.0
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(model)
    assert float(ema.tensors["weight"]) == pytest.approx(before + 1.0)


def test_applying_the_average_is_undone_exactly_even_after_an_error() -> None:
    model = _model()
    ema = Ema(model, 0.5)
    _steps(model, build_optimizer(_tagged(model), OptimizerPlan()), 2)
    own = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(KeyError), ema.applied(model):
        assert torch.equal(model.get_parameter("0.weight"), ema.tensors["0.weight"])
        raise KeyError
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, own[name]), name


def test_the_average_is_replaced_by_name_and_never_used_on_another_network() -> None:
    ema = Ema(_model(), 0.5)
    grown: dict[str, Tensor] = {**ema.tensors, "5.weight": torch.ones(2)}
    ema.replace(grown)
    assert set(ema.tensors) == set(grown)
    with pytest.raises(GraphError, match=r"differ in 5\.weight"):
        ema.update(_model())
