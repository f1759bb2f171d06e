"""Serving the registry: gunicorn, probes, metrics, the log of requests."""
