"""Lineage: which model made a set of images, and how models are related (METHOD section 6)."""
