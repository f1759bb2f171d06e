"""Hallmark registry: register generative models, issue fingerprinted copies, keep the ledger."""
