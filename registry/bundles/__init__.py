"""What verifiers need, exported in one signed file."""
