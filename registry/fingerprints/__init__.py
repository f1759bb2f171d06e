"""Fingerprint bases: the linear map from a key to a change of weights."""
