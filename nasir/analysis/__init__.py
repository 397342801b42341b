"""Analyses of a network without its weights: its main path, which widths are tied, what each part costs."""
