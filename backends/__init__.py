"""Backends, which turn a graph into a network that trains."""

if __name__ != "nasir.backends":  # under a second name every class would exist, and register, twice
    raise ImportError("installed as nasir.backends; import it by that name")
