"""Pooling."""

from __future__ import annotations

from functools import partial

from nasir.importing.recording import Tree
from nasir.importing.rules.place import Place, Typed, rule, whole
from nasir.ir import ValueType
from nasir.ops.pools import reaches
from nasir.ops.windows import has_places

WINDOW: dict[str, Tree] = {"kernel_size": None, "stride": None, "padding": 0}


def _max_pool(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.options(**WINDOW, dilation=1, ceil_mode=False, return_indices=False)
    if a is None or not _slides(a, rank, value) or a["return_indices"] or not whole(a["dilation"]):
        return None
    if not reaches(value, _flat(a["padding"]), _flat(a["dilation"])):
        return None
    return Typed("max_pool", (x,), _window(a) | {"dilation": a["dilation"], "ceil_mode": a["ceil_mode"]})


def _avg_pool(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    counting = {"count_include_pad": True, "divisor_override": None}
    a = place.options(**WINDOW, ceil_mode=False, **counting)
    if a is None or not _slides(a, rank, value):
        return None
    return Typed("avg_pool", (x,), _window(a) | {name: a[name] for name in ("ceil_mode", *counting)})


def _lp_pool(rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.options(norm_type=None, kernel_size=None, stride=None, ceil_mode=False)
    if a is None or type(a["norm_type"]) not in (int, float) or a["norm_type"] <= 0:
        return None
    if not _slides(a | {"padding": 0}, rank, value):
        return None
    window = {"kernel": a["kernel_size"], "stride": a["stride"] or 0}
    return Typed("lp_pool", (x,), {**window, "p": float(a["norm_type"]), "ceil_mode": a["ceil_mode"]})


def _slides(a: dict[str, Tree], rank: int, value: ValueType) -> bool:
    stride = a["stride"] or a["kernel_size"]  # torch takes None, and an empty list, for the kernel
    return has_places(value, rank) and whole(a["kernel_size"], stride, a["padding"]) and type(a["ceil_mode"]) is bool


def _window(a: dict[str, Tree]) -> dict[str, Tree]:
    return {"kernel": a["kernel_size"], "stride": a["stride"] or 0, "padding": a["padding"]}


def _flat(value: Tree) -> Tree:
    """Torch takes one number in a list for all axes too."""
    return value[0] if isinstance(value, tuple | list) and len(value) == 1 else value


def _adaptive(op: str, rank: int, place: Place, x: int, value: ValueType) -> Typed | None:
    a = place.options(output_size=None, return_indices=False)
    if a is None or not has_places(value, rank) or a["output_size"] is None or a["return_indices"]:
        return None
    size = _flat(a["output_size"])
    wanted = size if isinstance(size, tuple | list) else (size,) * rank
    sizes = [length if part is None else part for part, length in zip(wanted, value.shape[1:], strict=True)]
    return Typed(op, (x,), {"size": sizes}) if whole(sizes) else None


for _rank in (1, 2, 3):
    rule(f"torch.nn.modules.pooling.LPPool{_rank}d", f"torch.nn.functional.lp_pool{_rank}d")(partial(_lp_pool, _rank))
    for _kind, _taken in (("Max", _max_pool), ("Avg", _avg_pool)):
        _name = f"{_kind.lower()}_pool{_rank}d"
        rule(f"torch.nn.modules.pooling.{_kind}Pool{_rank}d", f"torch.nn.functional.{_name}", f"torch.{_name}")(
            partial(_taken, _rank)
        )
        rule(
            f"torch.nn.modules.pooling.Adaptive{_kind}Pool{_rank}d",
            f"torch.nn.functional.adaptive_{_name}",
            f"torch.adaptive_{_name}",
        )(partial(_adaptive, f"adaptive_{_kind.lower()}_pool", _rank))
