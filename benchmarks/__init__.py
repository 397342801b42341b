"""Benchmarks that print JSON: `python -m benchmarks.NAME` (not as files, whose names might shadow packages)."""
