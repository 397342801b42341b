"""Passes and rewrites, and what passes use: evidence, stored blocks, the initialization of new units."""

from nasir.rewriting.evidence import Evidence as Evidence
from nasir.rewriting.evidence import Need as Need
from nasir.rewriting.rewrite import WHOLE as WHOLE
from nasir.rewriting.rewrite import Pass as Pass
from nasir.rewriting.rewrite import Refresh as Refresh
from nasir.rewriting.rewrite import Rewrite as Rewrite
from nasir.rewriting.rewrite import Settle as Settle
from nasir.rewriting.rewrite import Site as Site
from nasir.rewriting.rewrite import get_pass as get_pass
