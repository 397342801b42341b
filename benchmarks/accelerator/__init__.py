"""Measurements on one accelerator, a process each: see `benchmarks/accelerator.sh`."""
