"""Shared prefixes: runs whose specs agree up to some decision train the same network until then, so one run trains it.

A run leaves the states it was in just before decisions in a store; a later run begins at the deepest of them that it
would have reached itself, bit for bit. See `nasir.running.prefixes.walk` for what "would have" means.
"""

from __future__ import annotations

from nasir.running.prefixes.identity import environment_digest
from nasir.running.prefixes.sharing import Sharing
from nasir.running.prefixes.store import PrefixStore

__all__ = ["PrefixStore", "Sharing", "environment_digest"]
