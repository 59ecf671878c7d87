"""An empty database for each test, and a receiver with a certificate."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import delete, insert, text
from sqlalchemy.ext.asyncio import AsyncEngine

from gamegen.service.database import schema
from gamegen.service.database.connection import connect
from gamegen.service.database.embedded import embedded_database
from gamegen.service.database.tables import generations, webhook_deliveries, webhook_secrets
from gamegen.service.webhooks.settings import RequestLimits, RetrySettings, UrlRules, WebhookSettings
from tests.service.orders.orders import order, result
from tests.service.webhooks.receiver import Receiver, make_authority, receiving

DRAWN = order(
    prompt="snow — Schnee", perspective="first", num_frames=4, num_steps=1, guidance_scale=1.0, seed=7
)
ORDER = {
    "id": "video_1",
    "account": "ada",
    "body_hash": "",
    "state": "COMPLETED",
    "tier": "standard",
    "priority": 5,
    "rank": 0.0,
    "order": DRAWN.to_dict(),
    "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
    "batch_key": "",
    "content_hash": "",
    "num_steps": 1,
    **asdict(result("video_1")),
}


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running PostgreSQL with a database of the newest schema."""
    with embedded_database(tmp_path_factory.mktemp("server") / "database") as url:
        schema.upgrade(url)
        yield url


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """That database with one order, and neither secrets nor deliveries."""
    engine = connect(database_url)
    async with engine.begin() as connection:
        await connection.execute(delete(webhook_secrets))
        await connection.execute(delete(generations))
        await connection.execute(insert(generations).values(ORDER))
    yield engine
    await engine.dispose()


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority and a server's certificate."""
    folder = tmp_path_factory.mktemp("certificates")
    make_authority(folder)
    return folder


@pytest.fixture
async def receiver(certificates: Path) -> AsyncIterator[Receiver]:
    """A receiver at a free port."""
    async with receiving(certificates) as receiver:
        yield receiver


@pytest.fixture
def settings(certificates: Path) -> WebhookSettings:
    """Settings that reach the receiver and hurry."""
    return WebhookSettings(
        UrlRules(allow_private_addresses=True, ports=()),
        RequestLimits(ca_file=str(certificates / "authority.pem")),
        RetrySettings(attempts=3, first_s=0.01, most_s=0.02),
    )


async def here(_host: str, _port: int) -> list[str]:
    """Resolves every name to this machine."""
    return ["127.0.0.1"]


async def write_delivery(engine: AsyncEngine, url: str, id: str = "msg_1", account: str = "ada") -> None:
    """A message that is due, as the queue writes it."""
    async with engine.begin() as connection:
        await connection.execute(
            insert(webhook_deliveries).values(
                id=id,
                generation_id="video_1",
                account=account,
                url=url,
                event="video.completed",
                state="pending",
            )
        )
        await connection.execute(text("notify gamegen_webhooks"))
