"""Organisations, people and recipients."""
