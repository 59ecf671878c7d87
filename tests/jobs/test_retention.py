"""The retention as a Ray job."""

from datetime import UTC, datetime, timedelta

from gamegen.service.database.connection import connect_blocking
from gamegen.service.retention.settings import RemovedCounts, RetentionSettings
from gamegen.storage.objects import LocalStore
from jobs.retention import run
from tests.databases import insert_orders, order_row


def test_what_is_due_goes(ray_cluster, database_url, tmp_path):
    store = LocalStore(tmp_path)
    store.write("videos/old/clip.mp4", b"x")
    done = datetime.now(UTC) - timedelta(days=31)
    row = order_row("old", state="COMPLETED", finished_at=done, content_key="videos/old/clip.mp4")
    engine = connect_blocking(database_url)
    with engine.begin() as connection:
        insert_orders(connection, row)
    engine.dispose()
    settings = RetentionSettings(grace_minutes=0)
    assert run(database_url, str(tmp_path), settings) == RemovedCounts(expired=1, clips=1)
    assert not list(store.keys(""))
