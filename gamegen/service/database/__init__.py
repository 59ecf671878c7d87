"""PostgreSQL: connections, retries, notifications, tables, migrations, and an embedded server."""
