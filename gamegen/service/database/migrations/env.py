"""Run by Alembic, on the connection that `gamegen.service.database.schema` opened."""

from alembic import context

from gamegen.service.database.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
