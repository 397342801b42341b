"""Initializers of whole networks: for which weights of which ops the default of the op is replaced."""

from __future__ import annotations

from collections.abc import Mapping

from nasir.errors import UnknownName
from nasir.ir import Fill
from nasir.ir.regions import closest

HE = Fill("kaiming_normal", {"mode": "fan_out"})
GLOROT = Fill("xavier_uniform")
ZEROS = Fill("zeros")

INITS: Mapping[str, Mapping[tuple[str, str], Fill]] = {
    "default": {},  # torch's: uniform with a = sqrt(5) for convolutions and linear layers, norms (1, 0)
    "he_normal": {("conv2d", "weight"): HE},  # He et al. 2015, as torchvision's ResNets
    "glorot_uniform": {  # Glorot & Bengio 2010, as Keras and so ResBuilder: biases start at 0
        ("conv2d", "weight"): GLOROT,
        ("conv2d", "bias"): ZEROS,
        ("linear", "weight"): GLOROT,
        ("linear", "bias"): ZEROS,
    },
}
"""By name: {(op, weight): rule}; what is not listed keeps the default of its op."""


def init_rules(init: str) -> Mapping[tuple[str, str], Fill]:
    """{(op, weight): rule} of a name; raises UnknownName."""
    if init not in INITS:
        raise UnknownName(f"unknown initializer {init!r}: {closest(init, INITS)}")
    return INITS[init]
