"""The zoo's family ``vae``."""
