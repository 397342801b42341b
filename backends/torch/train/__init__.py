"""Training: epochs, evaluation, averaged weights, refreshed statistics."""
