"""Ops of third parties, each with all that it says of itself; the leaky ReLU is the one of docs/extending.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nasir import op
from nasir.backends.torch import Call, lowering
from nasir.ir import At, Fill, ValueType, per_axis
from nasir.ir.op import PerAxis
from nasir.ops.pointwise import gelu
from nasir.testing import reference

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


def file_of_the_docs(name: str) -> str:
    """The file that docs/extending.md shows under a name."""
    match = re.search(rf"<!-- file: {re.escape(name)} -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
    assert match is not None, name
    return match[1]


def _my_leaky_relu() -> str:
    """Imports, function, op, lowering and reference of the leaky ReLU of the docs."""
    parts = [*ast.parse(file_of_the_docs("mine.py")).body, *ast.parse(file_of_the_docs("test_mine.py")).body]
    wanted = [node for node in parts if getattr(node, "name", "") == "leaky" or "my_leaky_relu" in _head(node)]
    assert len(wanted) == 4
    needed = [
        node for node in parts if isinstance(node, ast.Import | ast.ImportFrom) and "mine" not in ast.unparse(node)
    ]
    return "\n".join(ast.unparse(node) for node in (*needed, *wanted))


def _head(node: ast.stmt) -> str:
    return " ".join(map(ast.unparse, node.decorator_list)) if isinstance(node, ast.FunctionDef) else ""


exec(compile(_my_leaky_relu(), str(PAGE), "exec"), {"__name__": "mine"})


@op("my_gelu", family="activation", pointwise=gelu, unchanged="zero")
def my_gelu(at: At, x: ValueType) -> ValueType:
    """x * Phi(x)."""
    return x


@lowering("my_gelu")
def _(attrs: Mapping[str, Any], inputs: tuple[ValueType, ...], out: ValueType) -> Call:
    return Call(nn.functional.gelu)


@reference("my_gelu")
def _(attrs: Mapping[str, Any], weights: Mapping[str, Any], train: bool, x: Any) -> Any:
    return torch.nn.functional.gelu(torch.from_numpy(x)).numpy()


@op("deconv", family="weighted")
def deconv(at: At, x: ValueType, out: int, kernel: PerAxis = 2, stride: PerAxis = 2, bias: bool = True) -> ValueType:
    """Transposed convolution, without padding; its kernel lies as torch's, [read, written, height, width]."""
    channels, height, width = at.image(x)
    written = at.fresh(out, "out")
    (kh, kw), (sh, sw) = per_axis(kernel, 2), per_axis(stride, 2)
    start = Fill("normal", {"std": 1.0})
    at.slot("weight", ((channels, "read"), (written, "write"), (kh, "fixed"), (kw, "fixed")), start)
    if bias:
        at.slot("bias", ((written, "write"),), Fill("ones"), tags=frozenset({"bias"}))
    return ValueType((written, (height - 1) * sh + kh, (width - 1) * sw + kw))


@lowering("deconv")
def _(attrs: Mapping[str, Any], inputs: tuple[ValueType, ...], out: ValueType) -> nn.Module:
    read, given = inputs[0].shape[0], per_axis(attrs["kernel"], 2)
    return nn.ConvTranspose2d(read, attrs["out"], given, stride=per_axis(attrs["stride"], 2), bias=attrs["bias"])


@reference("deconv")
def _(attrs: Mapping[str, Any], weights: Mapping[str, Any], train: bool, x: Any) -> Any:
    kernel, stride = weights["weight"], per_axis(attrs["stride"], 2)
    count, _, height, width = x.shape
    _, out, kh, kw = kernel.shape
    y = np.zeros((count, out, (height - 1) * stride[0] + kh, (width - 1) * stride[1] + kw))
    for row in range(height):
        for column in range(width):
            top, left = row * stride[0], column * stride[1]
            y[:, :, top : top + kh, left : left + kw] += np.einsum("nc,cohw->nohw", x[:, :, row, column], kernel)
    return y + weights["bias"][None, :, None, None] if attrs["bias"] else y


@op("stirred")
def stirred(at: At, x: ValueType) -> ValueType:
    """x * 1.5, of which nothing is said."""
    return x


@lowering("stirred")
def _(attrs: Mapping[str, Any], inputs: tuple[ValueType, ...], out: ValueType) -> Call:
    return Call(torch.mul, (1.5,))


@reference("stirred")
def _(attrs: Mapping[str, Any], weights: Mapping[str, Any], train: bool, x: Any) -> Any:
    return 1.5 * x
