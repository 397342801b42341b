"""Blocks and the steps that build them: stages repeat blocks, and passes insert more.

A block is named and registered (here, or by third parties: entry point group `nasir.blocks`), or defined as data.
Either way its template is JSON, kept in the region it builds, so that a pass needs nothing else to build another one.
"""

from nasir.blocks import dense as dense
from nasir.blocks import fixup as fixup
from nasir.blocks import library as library
from nasir.blocks import transformer as transformer
from nasir.blocks.build import Shortcut as Shortcut
from nasir.blocks.build import build_block as build_block
from nasir.blocks.build import check_definition as check_definition
from nasir.blocks.build import close_residual as close_residual
from nasir.blocks.build import shortcut_of as shortcut_of
from nasir.blocks.init import INITS as INITS
from nasir.blocks.init import init_rules as init_rules
from nasir.blocks.init import made_with as made_with
from nasir.blocks.init import own_init as own_init
from nasir.blocks.init import starts as starts
from nasir.blocks.make import Maker as Maker
from nasir.blocks.scales import BranchScale as BranchScale
from nasir.blocks.scales import scaled as scaled
from nasir.blocks.starts import block_starts as block_starts
from nasir.blocks.starts import starts_of as starts_of
from nasir.blocks.steps import STEPS as STEPS
from nasir.blocks.steps import add_step as add_step
from nasir.blocks.stochastic_depth import space_by_depth as space_by_depth
