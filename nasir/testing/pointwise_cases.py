"""Cases of functions of one or two numbers, and of what leaves out something at random."""

from __future__ import annotations

from nasir.ir import JSON
from nasir.testing.op_case import IMAGE, LAID_OUT, TOKENS, VECTOR, VOLUME, OpCase, anywhere

PLAIN = (
    *("identity", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "hardtanh", "clamp", "abs"),
    *("gelu", "quick_gelu", "sigmoid", "logsigmoid", "silu", "mish", "hardsigmoid", "hardswish", "softplus"),
    *("softsign", "tanh", "exp", "log", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "erf"),
    *("softmax", "log_softmax", "prelu"),
)
SHAPES = ((IMAGE,), (VECTOR,), (TOKENS,))


def pointwise_cases() -> dict[str, tuple[OpCase, ...]]:
    """Cases by op."""
    by_op = {op: anywhere(op) for op in PLAIN}
    by_op |= {op: anywhere(op) for op in ("dropout", "stochastic_depth")}
    by_op["stochastic_depth"] += (OpCase("stochastic_depth", (VECTOR,), {"rescale": False, "mode": "batch"}),)
    by_op["stochastic_depth"] += (OpCase("stochastic_depth", (VECTOR,), {"noise": "uniform"}),)
    by_op["channel_dropout"] = tuple([OpCase("channel_dropout", (shape,)) for shape in (IMAGE, VOLUME)])
    by_op["channel_dropout"] += (OpCase("channel_dropout", (TOKENS,), channel_axis=0),)
    by_op["pow"] = tuple([case for exponent in (2, 3.0, -0.5) for case in anywhere("pow", exponent=exponent)])
    by_op["cast"] = anywhere("cast", dtype="float64")
    by_op["shift"] = (*anywhere("shift", value=1.5), *anywhere("shift", value=-1))
    by_op["divide_by"] = anywhere("divide_by", value=3)
    more: dict[str, list[dict[str, JSON]]] = {
        "leaky_relu": [{"slope": 0.3}, {"slope": 0}],
        "elu": [{"alpha": 0.5}],
        "celu": [{"alpha": 1.7}],
        "hardtanh": [{"low": 0.1, "high": 2}],
        "clamp": [{"low": 0.2}, {"high": 0.5}, {"low": -0.5, "high": 0.5}],
        "gelu": [{"approximate": "tanh"}],
        "softplus": [{"beta": 2, "threshold": 3.0}],
        "softmax": [{"axis": 0}, {"axis": 1}],
        "log_softmax": [{"axis": 0}, {"axis": 1}],
    }
    for op, ways in more.items():
        by_op[op] += tuple([OpCase(op, (IMAGE,), way) for way in ways])
        by_op[op] += tuple([OpCase(op, (shape,), way, axis) for way in ways for shape, axis in LAID_OUT])
    by_op["prelu"] += (
        OpCase("prelu", (IMAGE,), {"per_channel": True}),
        OpCase("prelu", (VECTOR,), {"per_channel": True}),
    )
    by_op["prelu"] += (OpCase("prelu", (TOKENS,), {"per_channel": True}, 0),)
    for op in ("sub", "div", "maximum", "minimum"):
        by_op[op] = tuple([OpCase(op, (shape, shape)) for (shape,) in SHAPES])
        by_op[op] += tuple([OpCase(op, (shape, shape), channel_axis=axis) for shape, axis in LAID_OUT])
        by_op[op] += (OpCase(op, (IMAGE, (4, 1, 1))), OpCase(op, ((4, 1, 6), IMAGE)))
    by_op["addcmul"] = (OpCase("addcmul", (IMAGE,) * 3, {"value": 0.5}), OpCase("addcmul", (VECTOR,) * 3))
    by_op["addcmul"] += (OpCase("addcmul", ((4, 1, 1), IMAGE, (4, 5, 1))),)
    by_op["sub"] += (OpCase("sub", (IMAGE, IMAGE), {"alpha": 2}),)
    return by_op
