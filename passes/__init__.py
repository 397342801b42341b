"""Graph rewrites, one idea per file. The classes are loaded on first use: `nasir.passes.InsertBlock`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nasir.lazy import lazy

if __name__ != "nasir.passes":  # under a second name every class would exist, and register, twice
    raise ImportError("installed as nasir.passes; import it by that name")

if TYPE_CHECKING:
    from nasir.passes.expand_to_budget import ExpandToBudget as ExpandToBudget
    from nasir.passes.freeze import Freeze as Freeze
    from nasir.passes.freeze import Unfreeze as Unfreeze
    from nasir.passes.grow_kernel import GrowKernel as GrowKernel
    from nasir.passes.insert_block import InsertBlock as InsertBlock
    from nasir.passes.insert_random_block import InsertRandomBlock as InsertRandomBlock
    from nasir.passes.insert_router import InsertRouter as InsertRouter
    from nasir.passes.keep_blocks import KeepBlocks as KeepBlocks
    from nasir.passes.merge_branches import MergeBranches as MergeBranches
    from nasir.passes.morph_widths import MorphWidths as MorphWidths
    from nasir.passes.place_dropout import PlaceDropout as PlaceDropout
    from nasir.passes.prune_channels import PruneChannels as PruneChannels
    from nasir.passes.refresh_norms import RefreshNorms as RefreshNorms
    from nasir.passes.remove_block import RemoveBlock as RemoveBlock
    from nasir.passes.remove_norms import RemoveNorms as RemoveNorms
    from nasir.passes.remove_weak_blocks import RemoveWeakBlocks as RemoveWeakBlocks
    from nasir.passes.reset_weights import ResetWeights as ResetWeights
    from nasir.passes.scale_branches import ScaleBranches as ScaleBranches
    from nasir.passes.select_blocks import SelectBlocks as SelectBlocks
    from nasir.passes.shrink_widths import ShrinkWidths as ShrinkWidths
    from nasir.passes.split_branches import SplitBranches as SplitBranches
    from nasir.passes.ungroup_branches import UngroupBranches as UngroupBranches
    from nasir.passes.widen import Widen as Widen

_HOME = {
    "ExpandToBudget": "nasir.passes.expand_to_budget",
    "Freeze": "nasir.passes.freeze",
    "Unfreeze": "nasir.passes.freeze",
    "GrowKernel": "nasir.passes.grow_kernel",
    "InsertBlock": "nasir.passes.insert_block",
    "InsertRandomBlock": "nasir.passes.insert_random_block",
    "InsertRouter": "nasir.passes.insert_router",
    "KeepBlocks": "nasir.passes.keep_blocks",
    "MergeBranches": "nasir.passes.merge_branches",
    "MorphWidths": "nasir.passes.morph_widths",
    "PlaceDropout": "nasir.passes.place_dropout",
    "PruneChannels": "nasir.passes.prune_channels",
    "RefreshNorms": "nasir.passes.refresh_norms",
    "RemoveBlock": "nasir.passes.remove_block",
    "RemoveNorms": "nasir.passes.remove_norms",
    "RemoveWeakBlocks": "nasir.passes.remove_weak_blocks",
    "ResetWeights": "nasir.passes.reset_weights",
    "ScaleBranches": "nasir.passes.scale_branches",
    "SelectBlocks": "nasir.passes.select_blocks",
    "ShrinkWidths": "nasir.passes.shrink_widths",
    "SplitBranches": "nasir.passes.split_branches",
    "UngroupBranches": "nasir.passes.ungroup_branches",
    "Widen": "nasir.passes.widen",
}

__all__ = [*_HOME]

if not TYPE_CHECKING:  # else a misspelt name would pass for one that is there
    __getattr__, __dir__ = lazy(__name__, _HOME)
