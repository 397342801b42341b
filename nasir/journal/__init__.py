"""The journal of a run, and the run directory that contains it."""
