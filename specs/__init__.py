"""Shipped specs; read them through `importlib.resources.files("nasir.specs")`."""
