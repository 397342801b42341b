"""Specs that ship with nasir; read them through `importlib.resources.files("nasir.specs")`."""
