"""Cases of the ops over windows: of signals, images and volumes."""

from __future__ import annotations

from nasir.ir import JSON
from nasir.testing.op_case import OpCase

SIGNAL, IMAGE, VOLUME = (4, 9), (4, 5, 6), (4, 3, 5, 4)
Given = dict[str, JSON]


def window_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases by op."""
    by_op: dict[str, tuple[OpCase, ...]] = {}
    for op, (everywhere, images) in POOLS.items():
        by_op[op] = (
            *[OpCase(op, (shape,), given, 0) for given in everywhere for shape in (SIGNAL, IMAGE, VOLUME)],
            *[OpCase(op, (IMAGE,), given) for given in images],
        )
    for rank, shape in enumerate((SIGNAL, IMAGE, VOLUME), start=1):
        by_op[f"conv{rank}d"] = tuple([OpCase(f"conv{rank}d", (shape,), given, 0) for given in CONVOLUTIONS])
        name = f"conv_transpose{rank}d"
        by_op[name] = tuple([OpCase(name, (shape,), given, 0) for given in TRANSPOSED])
    by_op["conv2d"] += tuple([OpCase("conv2d", (IMAGE,), given) for given in OF_IMAGES])
    given = {"out": 4, "kernel": [3, 2], "stride": [2, 1], "padding": [1, 0], "output_padding": [1, 0], "bias": True}
    by_op["conv_transpose2d"] += (OpCase("conv_transpose2d", (IMAGE,), given),)
    by_op["pad"] += (OpCase("pad", (IMAGE,), {"before": [0, 2], "after": 1}, 2), OpCase("pad", ((5, 6),), {"after": 2}))
    for mode, shape in (("linear", SIGNAL), ("bilinear", IMAGE), ("trilinear", VOLUME)):
        for more in ({"scale_factor": 2}, {"size": 7, "align_corners": True}, {"size": 3}, {"scale_factor": 1.4}):
            by_op["interpolate"] += (OpCase("interpolate", (shape,), {"mode": mode, **more}, 0),)
    smooth = ({"size": 3}, {"scale_factor": 1.4}, {"size": [3, 8], "align_corners": True})
    by_op["interpolate"] += tuple(
        [OpCase("interpolate", (IMAGE,), {"mode": "bilinear", "antialias": True, **more}, 0) for more in smooth]
    )
    by_op["bicubic"] = tuple(
        [OpCase("bicubic", (IMAGE,), {"antialias": wide, **more}, 0) for wide in (False, True) for more in smooth]
    )
    return by_op


CONVOLUTIONS: list[Given] = [
    {"out": 3, "kernel": 3, "padding": 1},
    {"out": 4, "kernel": 2, "stride": 2, "dilation": 2, "groups": 2, "bias": True},
    {"out": 8, "kernel": 1, "groups": 4},
    {"out": 4, "kernel": 3, "groups": 4, "bias": True},
    {"out": 2, "kernel": 2, "end_padding": 1},
    *[{"out": 2, "kernel": 3, "padding": 1, "padding_mode": mode} for mode in ("reflect", "replicate", "circular")],
    {"out": 2, "kernel": 2, "end_padding": 1, "padding_mode": "replicate"},
]
OF_IMAGES: list[Given] = [
    {"out": 4, "kernel": [3, 2], "stride": [2, 1], "dilation": [1, 2], "groups": 2, "bias": True},
    {"out": 4, "kernel": [3, 2], "padding": [1, 0], "end_padding": [0, 1]},
]
TRANSPOSED: list[Given] = [
    {"out": 3, "kernel": 2, "stride": 2},
    {"out": 3, "kernel": 3, "stride": 2, "padding": 1, "output_padding": 1, "bias": True},
    {"out": 6, "kernel": 3, "dilation": 2, "groups": 2, "bias": True},
    {"out": 4, "kernel": 3, "groups": 4},
    {"out": 8, "kernel": 2, "stride": 2, "groups": 4, "bias": True},
]
POOLS: dict[str, tuple[list[Given], list[Given]]] = {
    "max_pool": (
        [{"kernel": 2}, {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True}, {"kernel": 2, "dilation": 2}],
        [
            {"kernel": [3, 2], "stride": 1, "padding": [1, 0]},
            {"kernel": 3, "stride": 1, "padding": 1, "dilation": 2},
            {"kernel": 2, "stride": 3, "ceil_mode": True},
        ],
    ),
    "avg_pool": (
        [
            {"kernel": 2},
            {"kernel": 3, "stride": 2, "padding": 1},
            {"kernel": 3, "stride": 2, "padding": 1, "count_include_pad": False},
            {"kernel": 2, "stride": 2, "ceil_mode": True},
            {"kernel": 3, "stride": 2, "padding": 1, "ceil_mode": True},
        ],
        [
            {"kernel": [2, 2]},
            {"kernel": 2, "divisor_override": 3},
            {"kernel": 3, "stride": 2, "padding": 1, "divisor_override": 5, "ceil_mode": True},
        ],
    ),
    "lp_pool": (
        [{"kernel": 2}, {"kernel": 3, "stride": 2, "p": 4.0}, {"kernel": 2, "stride": 2, "ceil_mode": True}],
        [{"kernel": [3, 2], "stride": 1, "p": 1.0}],
    ),
    "adaptive_avg_pool": ([{"size": 1}, {"size": 2}], [{"size": [2, 4]}, {"size": 7}]),
    "adaptive_max_pool": ([{"size": 1}, {"size": 2}], [{"size": [2, 4]}, {"size": 7}]),
    "pad": (
        [
            {"before": 1, "after": 2},
            {"before": 2, "value": 1.5},
            *[{"before": 1, "after": 2, "mode": mode} for mode in ("reflect", "replicate", "circular")],
        ],
        [{"before": [0, 1], "after": [2, 0]}],
    ),
    "interpolate": (
        [
            {"scale_factor": 2},
            {"size": 4},
            {"size": 7, "mode": "nearest-exact"},
            {"scale_factor": 0.6, "mode": "area"},
        ],
        [{"size": [10, 3]}, {"scale_factor": [1.5, 2.0]}],
    ),
}
"""By op: cases of values of any rank, and of images."""
