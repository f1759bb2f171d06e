"""The zoo's family ``flow``."""
