"""Choosing which units to remove: scores, rankings, cost targets, and when removal is exact."""
