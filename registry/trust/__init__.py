"""The trust root: a TUF repository by which verifiers get networks, revocations and checkpoints safely."""
