"""The table of docs/models.md, from what `python -m benchmarks.models` found: `make docs` writes it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from architecture import between
from test_layers import ROOT

PAGE = ROOT / "docs/models.md"
RESULTS = ROOT / "benchmarks/results/models.json"
BEGIN, END = "<!-- models: written by `make docs` -->\n", "<!-- end of models -->\n"
HEADER = (
    *("network", "image", "parameters", "import (s)", "opaque", "same", "free spaces", "resizable", "blocks by stage"),
    *("inserted", "pruned", "right", "optimizer"),
)
INSERTED = re.compile(r"\S+, (\w+), \w+")  # the stage, how the block starts, what the rewrite claims
ROUNDING = 1e-4  # of the largest gradient
Row = Mapping[str, Any]


def count(number: int) -> str:
    return f"{number / 1e6:.1f} M"


def parity(row: Row) -> str:
    """Whether outputs and buffers are equal to the last bit in both modes, and gradients but for rounding; else how far
    apart they are."""
    if "parity_eval" not in row:
        return "-"
    found = {name: row[f"parity_{name}"] for name in ("eval", "train", "buffers", "gradients")}
    if any(isinstance(apart, str) for apart in found.values()):
        return "**no**"
    if max(found["eval"], found["train"], found["buffers"]) == 0.0 and found["gradients"] <= ROUNDING:
        return "yes"
    told = f"{'to ' if max(found.values()) <= ROUNDING else '**no**: '}{max(found.values()):.0e}"
    return f"{told} (itself {row['itself']:.0e})" if row.get("itself") else told


def yes(value: Any) -> str:
    return {True: "yes", False: "**no**", None: "-"}.get(value, "**no**")


def said_so(row: Row) -> bool:
    """Whether the outputs changed, and the rewrite does not claim that they stay."""
    return row.get("pruned_right") is False and row["pruned_preserves"] == "no"


def line(name: str, row: Row) -> list[str]:
    """The cells of one network."""
    side = "x".join(map(str, row["input"][1:])) if "input" in row else "-"
    if "nodes" not in row:
        return [name, side, count(row["params"]) if "params" in row else "-", "no", *["-"] * (len(HEADER) - 4)]
    stages = "-".join(map(str, row["stages"].values())) or "-"
    whole = "structure_only" not in row
    inserted = INSERTED.fullmatch(row["inserted"]) if whole else None
    return [
        name,
        side,
        count(row["params"]),
        f"{row['import_cpu_s']:.1f}" if whole else "structure",
        f"{sum(row['opaque'].values())} of {row['nodes']}",
        parity(row),
        f"{row['free']} of {row['spaces']}",
        f"{100 * row['resizable']:.0f} %",
        stages,
        inserted[1] if inserted and row.get("inserted_right", True) is True else "no" if whole else "-",
        f"{100 * row['pruned_params']:.0f} %" if "pruned_params" in row else "no" if whole else "-",
        "says no" if said_so(row) else yes(row.get("pruned_right")),
        yes(row.get("optimizer_right")),
    ]


def reasons(rows: Mapping[str, Row]) -> dict[str, list[str]]:
    """What did not go, with its reason, and the networks where that is so."""
    found: dict[str, list[str]] = {}

    def note(told: str, name: str) -> None:
        found.setdefault(told.replace("`", "'"), []).append(name)

    for name, row in rows.items():
        for key, what in (("refused", "not imported"), ("failed", "not examined")):
            if key in row:
                note(f"{what}: {row[key]}", name)
        if "structure_only" in row:
            note("the structure alone was looked at, for want of time", name)
        if "fewer_blocks" in row:
            note(f"examined with {row['fewer_blocks']}, since it is too large; its structure is that of all", name)
        if "nodes" in row and "structure_only" not in row:
            if parity(row).startswith("**no**"):
                told = ", ".join(f"{key} {row[f'parity_{key}']}" for key in ("eval", "train", "buffers", "gradients"))
                note(f"not the same: {told}", name)
            if "pruned_params" not in row:
                note(f"not pruned: {row['pruned']}", name)
            elif row.get("pruned_right") is not True:
                told = "as the rewrite says" if said_so(row) else "and not right"
                note(f"pruned, not exact, {told}: {row['pruned']}", name)
            if not INSERTED.fullmatch(row["inserted"]):
                note(f"no block inserted: {row['inserted']}", name)
            if row["trains"] is not True:
                note(f"does not train afterwards: {row['trains']}", name)
    return found


def opaque(rows: Mapping[str, Row]) -> dict[str, tuple[int, int]]:
    """Calls without a rule: how many, in how many networks."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows.values():
        for call, times in row.get("opaque", {}).items():
            calls, networks = found.get(call, (0, 0))
            found[call] = (calls + times, networks + 1)
    return dict(sorted(found.items(), key=lambda item: (-item[1][1], item[0])))


def text() -> str:
    """The figures as Markdown: totals, the table, reasons, calls without a rule."""
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows: Mapping[str, Row] = data["models"]
    imported = {name: row for name, row in rows.items() if "nodes" in row}
    examined = {name: row for name, row in imported.items() if "structure_only" not in row}
    pruned = {name: row for name, row in imported.items() if "pruned_params" in row}
    right = [name for name, row in pruned.items() if row.get("pruned_right") is True]
    kept = [name for name, row in pruned.items() if row.get("optimizer_right") is True]
    inserted = [name for name, row in examined.items() if line(name, row)[HEADER.index("inserted")] != "no"]
    bare = sum(not row["opaque"] for row in imported.values())
    same = sum(parity(row) == "yes" for row in examined.values())
    lines = [
        f"torch {data['torch']}, torchvision {data['torchvision']}, timm {data['timm']}. Of {len(rows)} networks "
        f"{len(imported)} were imported, {bare} of them without an opaque node. {len(examined)} were examined as a "
        f"whole: {same} compute the same to the last bit; {len(pruned)} were pruned, {len(right)} of them right, "
        f"{len(kept)} with the right state of the optimizer; a block was inserted into {len(inserted)}.",
        "",
        f"| {' | '.join(HEADER)} |",
        "|---" * len(HEADER) + "|",
        *[f"| {' | '.join(line(name, row))} |" for name, row in rows.items()],
        "",
        "## What did not go, and why",
        "",
        *[f"- {told}: {', '.join(names)}" for told, names in sorted(reasons(rows).items())],
        "",
        "## Calls without a rule",
        "",
        "| call | times | networks |",
        "|---|---|---|",
        *[f"| `{call}` | {times} | {networks} |" for call, (times, networks) in opaque(rows).items()],
    ]
    return "\n".join(lines) + "\n"


def updated(page: str) -> str:
    """The page with the figures as they have to be."""
    return between(page, BEGIN, END, text())


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
