"""No behaviour is decided by an op's name: only the ops themselves and the table of their lowerings know names.

Passes ask for facts (`nasir.ir.op.OpDef`) and for the roles of weights. Making a node by name is fine, asking for the
name of one is not.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasir.ir import op_named
from nasir.registry import ops

ROOT = Path(__file__).parent.parent
LOWERINGS = ("ops", "axes", "tokens", "pointwise", "dropping", "norms")
DEFINING = ("nasir/ops/*.py", *[f"backends/torch/lower/{name}.py" for name in LOWERINGS], "nasir/testing/*.py")
# words of the spec language and of torchvision, not of ops
WORDS = (
    "nasir/spec/presets.py",
    "nasir/spec/model_network.py",
    "backends/torch/weights/pretrained.py",
    "nasir/blocks/make.py",
)
NAMES = frozenset(name for name in ops.names() if op_named(name).rule.__module__.startswith("nasir."))
TESTS = ("startswith", "endswith", "removeprefix", "removesuffix", "partition", "count", "find")


def sources() -> list[Path]:
    files = [path for folder in ("nasir", "backends", "passes") for path in sorted((ROOT / folder).rglob("*.py"))]
    plain = [path for path in files if not any(parent.is_symlink() for parent in path.parents)]
    return [path for path in plain if not any(path.match(f"{ROOT}/{glob}") for glob in (*DEFINING, *WORDS))]


def is_op(node: ast.AST) -> bool:
    """`something.op`, or a plain `op`."""
    return (isinstance(node, ast.Attribute) and node.attr == "op") or (isinstance(node, ast.Name) and node.id == "op")


def mentions_op(node: ast.AST) -> bool:
    """An op, or a tuple with one."""
    return is_op(node) or (isinstance(node, ast.Tuple) and any(map(mentions_op, node.elts)))


def listed(node: ast.AST) -> list[str]:
    """The texts of a list, tuple or set that is written out."""
    parts = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else ()
    return [part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)]


def faults(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, what) of whatever asks for the name of an op."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            texts = [text for side in sides for text in (listed(side) or [getattr(side, "value", None)])]
            texts = [text for text in texts if isinstance(text, str)]
            foreign = texts and NAMES.isdisjoint(texts)  # torch.fx has nodes with an `op` too
            if any(map(mentions_op, sides)) and not all(map(mentions_op, sides)) and not foreign:
                yield node.lineno, "compares an op with a name"
        elif isinstance(node, ast.Subscript) and mentions_op(node.slice):
            yield node.lineno, "looks something up by an op's name"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in TESTS and is_op(node.func.value):
                yield node.lineno, "tests the text of an op's name"
            # `loaded` is the registry itself, by name
            if node.func.attr == "get" and ast.unparse(node.func.value) not in ("ops", "loaded", "known"):
                if any(map(mentions_op, node.args)):
                    yield node.lineno, "looks something up by an op's name"
        elif isinstance(node, ast.Match) and mentions_op(node.subject):
            yield node.lineno, "branches on an op's name"
        elif len(listed(node)) > 1 and NAMES.issuperset(listed(node)):
            yield node.lineno, "lists names of ops"


def test_nobody_asks_what_an_op_is_called() -> None:
    files = sources()
    assert len(NAMES) > 30 and len(files) > 150 and ROOT / "nasir/passes/insert_block.py" not in files
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {what}; state it as a fact of the op (nasir/ir/op.py)"
        for path in files
        for line, what in faults(ast.parse(path.read_text(encoding="utf-8")))
    ]
    assert offenders == []


@pytest.mark.parametrize(
    "text",
    [
        'node.op == "relu"',
        'graph.nodes[n].op in ("conv2d", "linear")',
        "node.op not in NORMS",
        '"relu" != draft.nodes[tail].op',
        'op in SUMS or op in ("mul", "concat")',
        'node.op.endswith("_norm")',
        'FAMILY.get(node.op, "other")',
        "RULES[node.op]",
        "rules.get((graph.nodes[n].op, name), slot.init)",
        'NORMS = frozenset({"batch_norm", "layer_norm"})',
        "match node.op:\n    case 'relu': pass",
    ],
)
def test_such_questions_are_noticed(text: str) -> None:
    assert list(faults(ast.parse(text)))


@pytest.mark.parametrize(
    "text",
    ['draft.add("relu", x, "act")', "old.op != new.op", "(a.op, a.attrs) == (b.op, b.attrs)", "op_named(node.op)"],
)
def test_making_and_comparing_nodes_is_fine(text: str) -> None:
    assert not list(faults(ast.parse(text)))
