"""Options of everything that nasir finds by name: declared by annotations, checked and normalized in one place.

An annotation says what a value may be: bool, int, float, str, None, `Literal`, lists, tuples, sets, mappings, unions,
dataclasses, and `Annotated` with the bounds of the package annotated_types (`Annotated[float, Gt(0), Lt(1)]`).
"""

from nasir.options.annotations import Canonical, Pattern, Remedy, Suggested, WithThousands, WithUnit
from nasir.options.checked import Checked
from nasir.options.declared import (
    Option,
    checked,
    construct,
    declared,
    described,
    kind_of,
    options_of,
    parameters_of,
    raise_faults,
    record_schema,
    schema_of,
)
from nasir.options.kinds import Kind
from nasir.options.words import Fault, Path, close_match, dotted, sentence, shown, suggestion

__all__ = [
    "Canonical",
    "Checked",
    "Fault",
    "Kind",
    "Option",
    "Path",
    "Pattern",
    "Remedy",
    "Suggested",
    "WithThousands",
    "WithUnit",
    "checked",
    "close_match",
    "construct",
    "declared",
    "described",
    "dotted",
    "kind_of",
    "options_of",
    "parameters_of",
    "raise_faults",
    "record_schema",
    "schema_of",
    "sentence",
    "shown",
    "suggestion",
]
