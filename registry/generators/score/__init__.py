"""The zoo's family ``score``."""
