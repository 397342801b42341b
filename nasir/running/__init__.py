"""Runs: the engine, the decisions it carries out, the population of an evolution, replay and dry runs."""
