"""The schema as migrations make it."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import insert, inspect, select

from gamegen.service.database import schema
from gamegen.service.database.connection import connect_blocking
from gamegen.service.database.tables import accounts, events, generations, metadata


def test_migrations_make_the_tables_that_the_code_knows(database_url) -> None:
    engine = connect_blocking(database_url)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        assert compare_metadata(context, metadata) == []
    engine.dispose()


def test_every_revision_can_be_reached_and_left_again(empty_database_url) -> None:
    assert schema.current(empty_database_url) is None
    for revision in schema.revisions():
        schema.upgrade(empty_database_url, revision)
        assert schema.current(empty_database_url) == revision
    schema.upgrade(empty_database_url)
    for revision in reversed(["base", *schema.revisions()[:-1]]):
        schema.downgrade(empty_database_url, revision)
    engine = connect_blocking(empty_database_url)
    assert inspect(engine).get_table_names() == ["alembic_version"]
    engine.dispose()


def test_what_is_there_stays_when_the_newest_revision_is_reached_from_the_first(empty_database_url) -> None:
    first = schema.revisions()[0]
    schema.upgrade(empty_database_url, first)
    engine = connect_blocking(empty_database_url)
    with engine.begin() as connection:
        connection.execute(insert(accounts).values(id="ann", balance_millicredits=5))
        connection.execute(
            insert(generations).values(
                id="video_1",
                account="ann",
                body_hash="a",
                state="PENDING",
                tier="standard",
                priority=5,
                rank=1.5,
                order={"prompt": "snow"},
                batch_key="k",
                content_hash="h",
                num_steps=8,
            )
        )
        connection.execute(
            insert(events).values(generation_id="video_1", kind="state", state="PENDING", fence=0, data={})
        )
    schema.upgrade(empty_database_url)
    # Upgrading again does nothing, and back at the first revision all of it is there.
    schema.upgrade(empty_database_url)
    schema.downgrade(empty_database_url, first)
    with engine.connect() as connection:
        assert connection.execute(select(generations.c.order, generations.c.rank)).one() == (
            {"prompt": "snow"},
            1.5,
        )
        assert connection.execute(select(events.c.generation_id)).scalars().all() == ["video_1"]
        assert connection.execute(select(accounts.c.balance_millicredits)).scalar_one() == 5
    engine.dispose()
