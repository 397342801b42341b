"""Specs: YAML with line numbers, checked as a whole, turned into plans for the policy and the backend."""

from nasir.spec.model import Spec
from nasir.spec.passes import make_policy
from nasir.spec.plugins import Plugin, hash_code, import_plugins
from nasir.spec.read import load_spec, loads_spec
from nasir.spec.schema import json_schema
from nasir.spec.search import SearchSpec, load_search, loads_search

__all__ = [
    "Plugin",
    "SearchSpec",
    "Spec",
    "hash_code",
    "import_plugins",
    "json_schema",
    "load_search",
    "load_spec",
    "loads_search",
    "loads_spec",
    "make_policy",
]
