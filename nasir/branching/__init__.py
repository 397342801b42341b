"""Branches: which part of a network they repeat, how wide they may be, and copies of parts of a graph."""

from nasir.branching.copying import copy_nodes as copy_nodes
from nasir.branching.copying import copy_regions as copy_regions
from nasir.branching.copying import numbered as numbered
from nasir.branching.parts import downstream as downstream
from nasir.branching.parts import head_of as head_of
from nasir.branching.parts import outputs_of as outputs_of
from nasir.branching.parts import separated as separated
from nasir.branching.planes import Group as Group
from nasir.branching.planes import calibrated as calibrated
from nasir.branching.planes import groups_of as groups_of
from nasir.branching.planes import params_of as params_of
from nasir.branching.planes import sizes_of as sizes_of
