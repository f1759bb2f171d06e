"""Building copies, delivering them, and the receipts of deliveries."""
