"""The ops that ship with nasir: typed functions that state their own facts, registered like those of third parties."""
