"""One file a world: what its people write, as `near` rows and as `far` rows (another domain)."""
