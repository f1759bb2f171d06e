"""Benchmarks: scripts that measure, print what they saw, and end with one line of JSON.

python -m bench.verify --quick
"""
