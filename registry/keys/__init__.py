"""User keys, their certificates, screening and revocation."""
