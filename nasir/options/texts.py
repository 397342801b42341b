"""Texts of a form that several options share."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from nasir.options.annotations import Pattern

LABEL = r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$"
LABEL_WORDS = "letters, digits and `_`, parts joined by dots, a letter first"
DEVICE = r"^(auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?)$"
DEVICE_WORDS = "auto, cpu, cuda or cuda:N"

Label: TypeAlias = Annotated[str, Pattern(LABEL, LABEL_WORDS)]
"""The label of a node or a region of a network, such as `s1.0.conv1`."""
