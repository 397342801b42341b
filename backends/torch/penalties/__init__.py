"""Terms of the loss that act on weights."""
