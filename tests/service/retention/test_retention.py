"""What is removed and what stays, in a real database and both kinds of store."""

import asyncio
from datetime import UTC, datetime, timedelta

import boto3
import pytest
from sqlalchemy import insert, select, text

from gamegen.service.database.connection import connect, connect_blocking
from gamegen.service.database.tables import accounts, checkpoints, credits_ledger, events, generations
from gamegen.service.retention.retention import Retention
from gamegen.service.retention.settings import RemovedCounts, RetentionSettings
from gamegen.storage.objects import S3Settings, S3Store
from tests.databases import insert_orders, order_row
from tests.storage import other_services

SETTINGS = RetentionSettings(grace_minutes=0, unnamed_hours=0, batch=2)


def days_ago(days):
    return datetime.now(UTC) - timedelta(days=days)


def finished(name, days, **changes):
    """A clip that was finished some days ago."""
    files = {"content_key": f"videos/{name}/clip.mp4", "thumbnail_key": f"videos/{name}/thumbnail.jpg"}
    row = order_row(name, state="COMPLETED", created_at=days_ago(days), finished_at=days_ago(days), **files)
    return row | changes


@pytest.fixture
def database(database_url):
    """An engine for the test's own statements."""
    engine = connect_blocking(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def remove(database_url, store):
    """Runs the retention once."""

    async def once(settings, **options):
        engine = connect(database_url, pool_size=2)
        try:
            return await Retention(engine, store, settings).run(**options)
        finally:
            await engine.dispose()

    return lambda settings=SETTINGS, **options: asyncio.run(once(settings, **options))


@pytest.fixture
def has(database, store):
    """Writes orders with their files."""

    def write(*rows):
        with database.begin() as connection:
            insert_orders(connection, *rows)
        for row in rows:
            for key in (row.get("content_key"), row.get("thumbnail_key")):
                if key:
                    store.write(key, row["id"].encode())

    return write


def orders(database):
    with database.connect() as connection:
        return dict(connection.execute(select(generations.c.id, generations.c.content_key)).all())


def test_clips_go_after_thirty_days_and_orders_after_ninety(has, remove, database, store):
    has(
        finished("new", 29), finished("old", 31), finished("kept", 200, is_kept=True), finished("ancient", 91)
    )
    has(order_row("failed", state="FAILED", finished_at=days_ago(91)), order_row("waiting"))
    assert remove() == RemovedCounts(expired=2, clips=2, orders=2)
    assert set(store.keys("")) == {
        "videos/new/clip.mp4",
        "videos/new/thumbnail.jpg",
        "videos/kept/clip.mp4",
        "videos/kept/thumbnail.jpg",
    }
    left = orders(database)
    assert set(left) == {"new", "old", "kept", "waiting"} and left["old"] is None
    assert remove() == RemovedCounts()


def test_expiring_is_an_event_and_is_told(has, remove, database):
    has(finished("old", 31))
    with connect_blocking(database.url.render_as_string(hide_password=False)).connect() as listening:
        driver = listening.connection.driver_connection
        driver.autocommit = True
        driver.execute("listen gamegen_videos")
        remove()
        told = next(driver.notifies(timeout=20, stop_after=1))
    with database.connect() as connection:
        event = connection.execute(select(events)).one()
    assert (event.kind, event.state, event.generation_id) == ("expired", "COMPLETED", "old")
    assert told.payload == f'{{"id": "old", "event": {event.id}, "state": "COMPLETED"}}'


def test_files_stay_a_while_after_they_expire(has, remove, database, store):
    has(finished("old", 31))
    assert remove(RetentionSettings(grace_minutes=60, unnamed_hours=0)) == RemovedCounts(expired=1)
    assert len(list(store.keys(""))) == 2 and orders(database)["old"]
    assert remove() == RemovedCounts(clips=1)
    assert not list(store.keys(""))


def test_files_that_several_orders_were_given_go_with_the_last(has, remove, database, store):
    shared = {"content_hash": "same", "content_key": "videos/a/clip.mp4", "thumbnail_key": "videos/a/t.jpg"}
    has(finished("a", 95, **shared), finished("b", 40, **shared), finished("c", 1, **shared))
    assert remove() == RemovedCounts(expired=2, clips=2, orders=1)
    assert len(list(store.keys(""))) == 2 and orders(database)["c"] == "videos/a/clip.mp4"
    with database.begin() as connection:
        connection.execute(text("update generations set finished_at = now() - interval '31 days'"))
    assert remove() == RemovedCounts(expired=1, clips=1)
    assert not list(store.keys(""))


def test_of_two_that_expire_together_one_removes_the_files(has, remove, store):
    shared = {"content_hash": "same", "content_key": "videos/a/clip.mp4", "thumbnail_key": "videos/a/t.jpg"}
    has(*(finished(name, 40, **shared) for name in ("a", "b", "c", "d", "e")))
    assert remove(is_sweeping=False) == RemovedCounts(expired=5, clips=5)
    assert not list(store.keys(""))


def test_checkpoints_go_when_their_order_has_ended(has, remove, database, store):
    has(finished("done", 1), order_row("working", state="GENERATING"))
    with database.begin() as connection:
        for name in ("done", "working"):
            for step in (2, 4):
                key = f"videos/{name}/checkpoints/{step}.safetensors"
                store.write(key, b"x")
                row = {"generation_id": name, "step": step, "fence": 1, "key": key, "size_bytes": 1}
                connection.execute(insert(checkpoints), row)
    assert remove(is_sweeping=False) == RemovedCounts(checkpoints=2)
    assert len(list(store.keys("videos/working/checkpoints/"))) == 2
    assert not list(store.keys("videos/done/checkpoints/"))


def test_inputs_go_when_no_order_needs_them(has, remove, store):
    def with_input(row, name, key):
        return row | {"order": row["order"] | {name: key}}

    for key in ("waiting", "shown", "expired", "refused", "nobody"):
        store.write(f"inputs/{key}", b"x")
    has(
        with_input(order_row("a"), "image_key", "inputs/waiting"),
        with_input(finished("b", 1), "source_key", "inputs/shown"),
        with_input(finished("c", 31), "image_key", "inputs/expired"),
        with_input(order_row("d", state="BLOCKED", finished_at=days_ago(1)), "image_key", "inputs/refused"),
        # Another order needs it still.
        with_input(finished("e", 31), "image_key", "inputs/waiting"),
    )
    assert remove().inputs == 3
    assert list(store.keys("inputs/")) == ["inputs/shown", "inputs/waiting"]


def test_files_that_no_row_names_go(has, remove, store):
    has(finished("done", 1), order_row("working", state="UPLOADING"))
    for key in ("done/checkpoints/9.safetensors", "lost/clip.mp4", "working/clip.mp4", "done/clip.old.mp4"):
        store.write(f"videos/{key}", b"x")
    store.write("models/nano/1/card.json", b"{}")
    assert remove(RetentionSettings(unnamed_hours=24)) == RemovedCounts()
    assert remove() == RemovedCounts(orphans=3)
    assert "videos/working/clip.mp4" in set(store.keys("")) and "models/nano/1/card.json" in set(
        store.keys("")
    )


def test_what_was_paid_stays(has, remove, database):
    has(finished("ancient", 91))
    with database.begin() as connection:
        connection.execute(insert(accounts), {"id": "local", "balance_millicredits": 5})
        row = {"account": "local", "generation_id": "ancient", "kind": "settle", "millicredits": 0}
        connection.execute(insert(credits_ledger), row)
        event = {"generation_id": "ancient", "kind": "state", "state": "COMPLETED", "fence": 1, "data": {}}
        connection.execute(insert(events), event)
    assert remove().orders == 1
    with database.connect() as connection:
        assert connection.execute(select(credits_ledger.c.generation_id)).scalars().all() == ["ancient"]
        assert not connection.execute(select(events)).all()


def test_many_at_once_do_it_once(has, database_url, store):
    has(*(finished(f"v{i}", 31) for i in range(9)))

    async def all_at_once():
        engine = connect(database_url)
        try:
            return await asyncio.gather(*(Retention(engine, store, SETTINGS).run() for _ in range(5)))
        finally:
            await engine.dispose()

    done = [removed for removed in asyncio.run(all_at_once()) if removed]
    assert sum(removed.expired for removed in done) == 9
    assert sum(removed.clips for removed in done) == 9
    assert not list(store.keys(""))


def test_a_run_that_was_broken_off_is_made_good(has, remove, database, store, monkeypatch):
    has(*(finished(f"v{i}", 31) for i in range(4)))
    real, calls = type(store).delete_many, []

    def breaks(self, keys):
        calls.append(keys)
        if len(calls) == 2:
            raise ConnectionError("gone")
        return real(self, keys)

    monkeypatch.setattr(type(store), "delete_many", breaks)
    with pytest.raises(ConnectionError):
        remove()
    monkeypatch.undo()
    assert sum(key is None for key in orders(database).values()) == 2
    assert remove() == RemovedCounts(clips=2)
    assert not list(store.keys(""))


def test_files_that_the_store_keeps_hold_up_no_others(database, database_url, monkeypatch):
    names = [f"v{i}" for i in range(7)]
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    with other_services.running() as service:
        service.gates = (other_services.has_no_batches,)
        boto3.client("s3", endpoint_url=service.endpoint, region_name="us-east-1").create_bucket(
            Bucket="locked"
        )
        store = S3Store("locked", settings=S3Settings(service.endpoint))
        with database.begin() as connection:
            insert_orders(connection, *(finished(name, 31) for name in names))
            for name in names:
                store.write(f"videos/{name}/clip.mp4", b"x")
                key = f"videos/{name}/checkpoints/4.safetensors"
                row = {"generation_id": name, "step": 4, "fence": 1, "key": key, "size_bytes": 1}
                connection.execute(insert(checkpoints), row)
                store.write(key, b"x")
        store.write("videos/lost/clip.mp4", b"x")
        service.locked = frozenset({"videos/v0/clip.mp4", "videos/v1/checkpoints/4.safetensors"})

        async def run():
            engine = connect(database_url, pool_size=2)
            try:
                return await Retention(engine, store, SETTINGS).run()
            finally:
                await engine.dispose()

        removed = asyncio.run(run())
        assert (removed.checkpoints, removed.expired, removed.clips, removed.orphans) == (6, 7, 6, 1)
        assert removed.not_removed == 2 and "AccessDenied" in removed.reason
        assert {name for name, key in orders(database).items() if key} == {"v0"}
        assert set(store.keys("")) == service.locked
        service.locked = frozenset()
        assert asyncio.run(run()) == RemovedCounts(checkpoints=1, clips=1)
        assert not list(store.keys(""))


@pytest.mark.parametrize(
    "values",
    [{"content_days": -1}, {"content_days": 40, "metadata_days": 30}, {"batch": 0}, {"batch": 2000}],
)
def test_settings_that_cannot_be_kept_are_errors(values):
    with pytest.raises(ValueError, match="="):
        RetentionSettings(**values)
