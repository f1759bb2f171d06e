"""Generators behind one interface: how to sample latents and how to render them with given weights."""
