"""Plain data as YAML text that `nasir.spec.tree.parse` reads back equal."""

from __future__ import annotations

from typing import Any

import yaml

from nasir.spec.tree import FLOAT, INT


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or 1.2 would not read as text: `no` as well as `1e-3`."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# every first character that a number can have; a class of its own keeps the resolvers of other users of PyYAML alone
_Dumper.add_implicit_resolver("tag:yaml.org,2002:int", INT, list("-+0123456789"))
_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))


def dump(data: Any) -> str:
    """Block style YAML, keys in the order given, nothing shortened by aliases."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)
    return text
