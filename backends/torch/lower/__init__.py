"""Lowering: how graphs and ops become torch, and the module that runs them and holds their tensors."""
