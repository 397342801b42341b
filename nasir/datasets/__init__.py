"""Data sets as they lie on disk, without torch: found, read as arrays, split, looked at before a run."""
