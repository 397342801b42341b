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

# gradients over the roots of their averaged squares are averaged there, not gradients
_TORCH_RMSPROP: Mapping[str, StateKind] = {**CONVENTIONAL, "momentum_buffer": "direction"}

TORCH: Mapping[str, Keeps] = {"RMSprop": Keeps(_TORCH_RMSPROP)}
