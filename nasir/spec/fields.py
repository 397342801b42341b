"""Field types and model bases that all parts of a spec share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError

from nasir.options import kind_of, ranges, suggestion
from nasir.options.texts import DEVICE as DEVICE
from nasir.options.texts import DEVICE_WORDS, LABEL_WORDS
from nasir.options.texts import LABEL as LABEL
from nasir.options.words import amount, no_amount

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.-]*$"
INITIALIZER = r"^[a-z][a-z0-9_]*$"
FORMS = {
    NAME: "letters, digits, `_`, `-` and `.`, a letter or digit first",
    LABEL: LABEL_WORDS,
    DEVICE: DEVICE_WORDS,
    INITIALIZER: "the name of an initializer, such as default",
}
"""What a pattern asks for, in words."""


class Strict(BaseModel):
    """A mapping with known keys and no conversions: text is not a number, a number is finite.

    `elsewhere` says where keys belong that one might look for here.
    """

    elsewhere: ClassVar[str] = ""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, populate_by_name=True, protected_namespaces=()
    )

    def plain(self) -> dict[str, Any]:
        """As YAML would hold it: dicts, lists and scalars, absent optional keys left out."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def fault(text: str, remedy: str, *keys: str) -> PydanticCustomError:
    """An error for a validator to raise, about the value or some `keys` of it; it becomes a Problem of these parts."""
    return PydanticCustomError("nasir", "{text}", {"text": text, "remedy": remedy, "keys": keys})


class OneOf(Strict):
    """A mapping of exactly one key, the kind, to the options of that kind; `bare` kinds may be written alone.

    `examples` says how to write kinds whose options are no mapping.
    """

    bare: ClassVar[frozenset[str]] = frozenset()
    examples: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, data: Any) -> Any:
        if isinstance(data, str):
            return {cls._checked(data): {}}
        if isinstance(data, Mapping) and len(data) == 1:
            [(kind, options)] = data.items()
            return {cls._checked(kind): {}} if options is None and kind in cls.kinds() else data
        return data

    @classmethod
    def kinds(cls) -> tuple[str, ...]:
        """The kinds this choice offers, in order of declaration."""
        return tuple(info.alias or name for name, info in cls.model_fields.items())

    @classmethod
    def _checked(cls, kind: str) -> str:
        if kind in cls.bare or (cls.model_config.get("extra") == "allow" and kind not in cls.kinds()):
            return kind
        if kind in cls.kinds():
            if kind in cls.examples:
                raise fault(f"{kind} needs a value", f"write {cls.examples[kind]}")
            raise fault(f"{kind} needs options", f"write {{{kind}: {{...}}}}")
        raise fault(f"unknown value {kind!r}", suggestion(kind, cls.kinds()))

    @model_validator(mode="after")
    def _exactly_one(self) -> OneOf:
        given = self._given()
        if not given:
            raise fault("expected one key, found none", f"give one of {', '.join(self.kinds())}")
        if len(given) > 1:
            remedy = "keep one; `key: null` takes out one that an extended spec brings in"
            raise fault(f"expected one key, found {' and '.join(given)}", remedy, *given)
        return self

    def _given(self) -> list[str]:
        extra = list(self.model_extra or ())
        return [name for name in type(self).model_fields if getattr(self, name) is not None] + extra

    @property
    def kind(self) -> str:
        """The one key that is given."""
        name = self._given()[0]
        info = type(self).model_fields.get(name)
        return info.alias or name if info else name

    @property
    def chosen(self) -> Any:
        """The value under the one key that is given."""
        name, extra = self._given()[0], self.model_extra or {}
        return extra[name] if name in extra else getattr(self, name)  # a block may have the name of a method

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        made = handler(schema)
        target = handler.resolve_ref_schema(made)
        target.update(minProperties=1, maxProperties=1)
        return {"anyOf": [{"enum": sorted(cls.bare)}, made]} if cls.bare else made


def _in_epochs(value: Any) -> Any:
    """`3 epochs` as 3; numbers pass unchanged."""
    if not isinstance(value, str):
        return value
    number = amount(value, "epochs")
    if number is None:
        raise fault(*no_amount(value, "epochs"))
    return number


Epochs = Annotated[ranges.Epochs, BeforeValidator(_in_epochs), WithJsonSchema(kind_of(ranges.Epochs).schema())]
"""A whole number of epochs, at least 1: `3 epochs` or 3."""
EpochLength = Annotated[
    ranges.EpochLength, BeforeValidator(_in_epochs), WithJsonSchema(kind_of(ranges.EpochLength).schema())
]
"""A length in epochs that need not be whole: `0.5 epochs`."""
Options = dict[str, Any]
"""Options that something registered checks: JSON values by name."""


def empty_if_none(value: Any) -> Any:
    """`key:` with nothing after it, where a mapping of options is meant."""
    return {} if value is None else value
