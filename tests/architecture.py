"""The tables of docs/architecture.md: `make docs` writes them from the layer maps and the first sentences of rooms."""

from __future__ import annotations

import ast
from pathlib import Path

from test_layers import FOR_BACKENDS, FOR_PASSES, LAYERS, ROOT, TORCH_ROOMS

PAGE = ROOT / "docs/architecture.md"
BEGIN, END = "<!-- rooms: written by `make docs` -->\n", "<!-- end of rooms -->\n"
TORCH_BEGIN = "<!-- rooms of the torch backend: written by `make docs` -->\n"
TORCH_END = "<!-- end of rooms of the torch backend -->\n"


def purpose(room: Path) -> str:
    """The first sentence or two of a module or package: the first paragraph of its docstring."""
    file = room / "__init__.py" if room.is_dir() else room.with_suffix(".py")
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    assert text, f"{file.relative_to(ROOT)} says nothing about itself"
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def table() -> str:
    """One line a room, the lowest floor first; then the folders at the root."""
    lines = ["| floor | room | what it is for | may import |", "|---|---|---|---|"]
    for floor, rooms in enumerate(LAYERS, start=1):
        below = "nothing of nasir" if floor == 1 else f"floor{'s 1 to' if floor > 2 else ''} {floor - 1}"
        lines += [f"| {floor} | `nasir/{room}` | {purpose(ROOT / 'nasir' / room)} | {below} |" for room in rooms]
    for folder, allowed in (("passes", FOR_PASSES), ("backends", FOR_BACKENDS), ("specs", set())):
        names = ", ".join(f"`{name}`" for name in sorted(allowed)) or "nothing of nasir"
        lines.append(f"| | `{folder}` | {purpose(ROOT / folder)} | {names} |")
    return "\n".join(lines) + "\n"


def torch_table() -> str:
    """One line a room of the torch backend, the lowest floor first."""
    lines = ["| floor | room | what it is for |", "|---|---|---|"]
    for floor, rooms in enumerate(TORCH_ROOMS, start=1):
        lines += [f"| {floor} | `{room}` | {purpose(ROOT / 'backends/torch' / room)} |" for room in rooms]
    return "\n".join(lines) + "\n"


def between(page: str, begin: str, end: str, text: str) -> str:
    """The page with `text` between the lines `begin` and `end`, which are in it."""
    head, _, rest = page.partition(begin)
    _, _, tail = rest.partition(end)
    return f"{head}{begin}\n{text}\n{end}{tail}"


def updated(page: str) -> str:
    """The page with the tables as they have to be."""
    return between(between(page, BEGIN, END, table()), TORCH_BEGIN, TORCH_END, torch_table())


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
