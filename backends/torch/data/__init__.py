"""Data sets of the torch backend: read, decoded, split, drawn, augmented, in memory or streamed."""
