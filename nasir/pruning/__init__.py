"""Choosing units of spaces to remove: scores, rankings, targets on the real cost, and what removal does exactly."""
