"""Benchmarks that print JSON: `python -m benchmarks.NAME` (not as files, where cuda.py would shadow a package)."""
