"""PostgreSQL: its tables, how they came to be, and the server that is there when no other is named."""
