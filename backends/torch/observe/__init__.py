"""Measurements of live networks: evidence for passes, latency, what the device reaches."""
