"""The attribution network: image -> one logit for each bit of the key."""
