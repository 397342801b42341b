"""Graph rewrites, one idea a file."""

if __name__ != "nasir.passes":  # under a second name every class would exist, and register, twice
    raise ImportError("installed as nasir.passes; import it by that name")
