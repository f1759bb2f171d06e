"""The append-only Merkle log of everything the registry states."""
