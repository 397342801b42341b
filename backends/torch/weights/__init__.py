"""Weights that come from somewhere or go there: checkpoints, snapshots, other runs, published ones."""
