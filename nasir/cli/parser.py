"""The parser of the command line: argparse that shows an example, and knows what a misspelt word was meant to be."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

__all__ = ["Parser"]


class Parser(argparse.ArgumentParser):
    """An argument parser; `examples`: command lines that its help ends with."""

    def __init__(self, *, examples: Sequence[str] = (), **options: Any) -> None:
        shown = "\n".join(("examples:", *(f"  {example}" for example in examples))) if examples else None
        super().__init__(epilog=shown, formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.examples = tuple(examples)

    @property
    def commands(self) -> dict[str, Parser]:
        """The parsers of the commands by name; none below a command."""
        actions = (action for action in self._actions if isinstance(action, argparse._SubParsersAction))
        return {name: parser for action in actions for name, parser in action.choices.items()}

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does it; an option that nobody knows is named with the closest known one."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            parser = self.commands.get(getattr(options, "command", None) or "", self)
            parser.error(f"unrecognized arguments: {' '.join(unknown)}{parser._meant(unknown)}")
        return options

    def _meant(self, unknown: Sequence[str]) -> str:
        known = [name for name in self._option_string_actions if name.startswith("--")]
        remedies = (_remedy(word.partition("=")[0], known) for word in unknown if word.startswith("--"))
        return next(filter(None, remedies), "")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            if remedy := _remedy(str(value), [str(choice) for choice in action.choices or ()]):
                raise argparse.ArgumentError(action, f"unknown {value!r}{remedy}") from None
            raise error


def _remedy(word: str, known: Sequence[str]) -> str:
    from nasir.options.words import close_match  # only where something is wrong

    close = close_match(word, known)
    return "" if close is None else f"; did you mean {close}?"
