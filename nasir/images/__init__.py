"""Decoding of image files without torch, in this process or in several."""
