"""From readings to registry entries: grants, budgets, disclosure.

The search and its bound are the verifier's (:mod:`verifier.resolve`, :mod:`verifier.evidence`); here is who
may ask, how often, and what he is told.
"""
