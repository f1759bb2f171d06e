"""Keeping a registry's data: schema upgrades, backups and their restoring."""
