"""nasir: networks as immutable typed graphs, rewritten by passes while they train."""
