"""Lowering: how graphs and ops become torch."""
