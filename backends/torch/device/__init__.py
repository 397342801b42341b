"""The device: which, how precise, what torch is told for the whole process, memory that ran out."""
