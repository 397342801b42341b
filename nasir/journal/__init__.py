"""What a run leaves behind: its journal of records, and the directory that holds it."""
