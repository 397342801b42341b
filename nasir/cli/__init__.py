"""The command line: parsing and printing. Nothing here loads torch by itself."""
