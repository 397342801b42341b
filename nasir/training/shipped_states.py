"""What optimizers of torch and of well-known packages keep for each parameter, found by entry points."""

from __future__ import annotations

from collections.abc import Mapping

from nasir.training.states import Keeps, StateKind

CONVENTIONAL: Mapping[str, StateKind] = {
    "momentum_buffer": "first",
    "exp_avg": "first",
    "grad_avg": "first",
    "prev": "first",
    "exp_avg_sq": "second",
    "max_exp_avg_sq": "second",
    "square_avg": "second",
    "sum": "second",
    "variance": "second",
    "exp_inf": "magnitude",
    "step_size": "update_size",
    "acc_delta": "update_square",
    "row_var": "factored",
    "col_var": "factored",
    "ax": "weight",
    "step": "scalar",
    "mu_product": "scalar",
}
"""The names that torch's own optimizers use, and those that others took over from them."""


def _named(*keys: str, **others: StateKind) -> Keeps:
    """What goes by conventional names, and what does not."""
    return Keeps({**{key: CONVENTIONAL[key] for key in keys}, **others})


_ADAM = ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "step")

TORCH: Mapping[str, Keeps] = {
    # its momentum is one of gradients over the roots of their averaged squares
    "RMSprop": Keeps({**CONVENTIONAL, "momentum_buffer": "direction"}),
}

# steps and sums of weights are those of a group; z, x and y are sequences of weights, one of which the network has
_SUMS = ("k", "weight_sum", "lr_max")
_SCHEDULE_FREE = Keeps(
    {"z": "weight", "x": "weight", "y": "weight", "exp_avg_sq": "second"},
    counts=_SUMS,
)
SCHEDULE_FREE: Mapping[str, Keeps] = {
    **{
        f"{name}ScheduleFree{variant}": _SCHEDULE_FREE
        for name in ("SGD", "AdamW", "RAdam")
        for variant in ("", "Closure", "Reference", "Paper")
    },
    "ScheduleFreeWrapper": Keeps({"z": "weight"}, counts=_SUMS),
    "ScheduleFreeWrapperReference": Keeps({"z": "weight", "x": "weight"}, counts=_SUMS),
}

LION_PYTORCH: Mapping[str, Keeps] = {"Lion": _named("exp_avg")}

TIMM: Mapping[str, Keeps] = {
    "AdaBelief": _named("exp_avg", "step", exp_avg_var="second", max_exp_avg_var="second"),
    "Adafactor": _named("exp_avg_sq", "step", RMS="scalar"),
    "AdafactorBigVision": _named("exp_avg_sq", "step", exp_avg="direction"),
    "AdamP": _named(*_ADAM),
    "AdamWLegacy": _named(*_ADAM),
    "Adan": Keeps(
        {"exp_avg": "first", "exp_avg_diff": "first", "neg_pre_grad": "first", "exp_avg_sq": "second"},
        counts=("step",),
    ),
    "Adopt": _named("exp_avg_sq", "step", exp_avg="direction"),
    "Lamb": Keeps({"exp_avg": "first", "exp_avg_sq": "second"}, counts=("step",)),
    "LaProp": _named("exp_avg_sq", "step", exp_avg="direction", exp_avg_lr_1="scalar", exp_avg_lr_2="scalar"),
    "Lars": Keeps({"momentum_buffer": "update"}),  # of gradients that are as long as the weights
    "Lion": _named("exp_avg"),
    "Lookahead": Keeps({"lookahead_slow_buff": "weight"}, counts=("lookahead_step",)),
    "Muon": _named("momentum_buffer", "exp_avg", "exp_avg_sq", "step", use_muon="number"),
    "NAdamLegacy": _named("exp_avg", "exp_avg_sq", "step", m_schedule="scalar"),
    "NAdamW": _named(*_ADAM),
    "RAdamLegacy": _named(*_ADAM),
    "RMSpropTF": _named("square_avg", "grad_avg", "step", momentum_buffer="direction"),
    "SGDP": Keeps({"momentum": "first"}),
    "SGDW": _named("momentum_buffer"),
}
"""Those that are not here keep matrices or numbers for whole layers (Kron, NvNovoGrad), estimate curvatures
(Adahessian), average what they clip to a length (Mars), or put weights together from parts of the state, which a
rewrite that scales these would move (MADGRAD)."""
