"""Orders of clips: their queue in PostgreSQL, with leases, credits and events."""
