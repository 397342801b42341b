"""Which processes live: asked of the system, without a race with their end."""

from __future__ import annotations

from pathlib import Path


def status(pid: int) -> tuple[str, int] | None:
    """(state, parent) of a process; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return fields[0], int(fields[1])


def living(pid: int) -> bool:
    """Whether a process runs or sleeps; one that only waits to be collected by its parent does not."""
    return (state_and_parent := status(pid)) is not None and state_and_parent[0] != "Z"


def children(pid: int) -> list[int]:
    """Living children of a process."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [
        child
        for child in pids
        if (state_and_parent := status(child)) and state_and_parent[1] == pid and state_and_parent[0] != "Z"
    ]
