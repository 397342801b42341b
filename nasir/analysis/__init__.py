"""What can be known of a network without its weights: its main path, which widths go together, what it costs where."""
