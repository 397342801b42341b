"""The ops nasir ships: typed functions that state their own facts, found by entry points as a third party's are."""
