"""Specs that a run or a study has kept: what they leave out means what it meant when they were stored."""

from __future__ import annotations

from pathlib import Path as File

from nasir.spec.load import parse_mapping, read_text
from nasir.spec.model import Spec
from nasir.spec.read import checked


def as_stored(spec: Spec) -> Spec:
    """Averages of weights once had a constant decay, so those of a spec that says nothing of a warm-up have one still.

    Resolved specs say it since there is a choice.
    """
    phases = []
    for phase in spec.phases:
        silent = phase.ema is not None and "warmup" not in phase.ema.model_fields_set
        if phase.ema is not None and silent:
            phase = phase.model_copy(update={"ema": phase.ema.model_copy(update={"warmup": False})})
        phases.append(phase)
    return spec.model_copy(update={"phases": tuple(phases)})


def load_stored(path: File) -> Spec:
    """The resolved spec that a run keeps; raises SpecError as `load_spec` does."""
    return as_stored(checked(parse_mapping(read_text(path), str(path)), str(path)))
