"""The zoo's family ``gan``."""
