"""Optimizers: their groups, their state, and how both go through a rewrite."""
