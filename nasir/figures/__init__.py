"""Figures computed from the checkpoints of a run: the way of its weights, and the loss around them."""
