"""Signing secrets of webhooks, and their rotation without a gap (standardwebhooks.com)."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from standardwebhooks import Webhook

from gamegen.service.database.connection import connect
from gamegen.service.database.tables import webhook_secrets as table
from gamegen.service.webhooks.secret_box import SecretBox
from gamegen.service.webhooks.settings import RotationSettings

_SECRET_BYTES = 32


@dataclass(frozen=True)
class Secret:
    """A secret in the form that receivers use (`whsec_...`); `expires_at` is None for the newest."""

    text: str = field(repr=False)
    created_at: datetime
    expires_at: datetime | None


class SigningSecrets:
    """Signing secrets of all accounts, in the database; encrypted there if a key is set."""

    def __init__(self, engine: AsyncEngine, settings: RotationSettings, secret_box: SecretBox) -> None:
        self._engine = engine
        self._settings = settings
        self._secret_box = secret_box

    async def of(self, account: str) -> list[Secret]:
        """Valid secrets of an account, the newest first; makes its first one. Raises UnreadableSecretError."""
        async with self._engine.begin() as connection:
            found = await self._valid(connection, account)
            if not found:
                await _lock(connection, account)
                found = await self._valid(connection, account)
            if not found:
                await self._add(connection, account)
                found = await self._valid(connection, account)
        return found

    async def rotate(self, account: str, overlap_s: float | None = None) -> Secret:
        """Makes a new secret; older ones stay valid for `overlap_s` seconds, 0 if they have leaked."""
        overlap = self._settings.overlap_s if overlap_s is None else overlap_s
        if not 0 <= overlap <= self._settings.overlap_s:
            raise ValueError(f"overlap_s = {overlap:g}: must be 0 to {self._settings.overlap_s:g} seconds")
        async with self._engine.begin() as connection:
            await _lock(connection, account)
            end = func.now() + func.make_interval(0, 0, 0, 0, 0, 0, overlap)
            await connection.execute(
                update(table)
                .where(table.c.account == account)
                .values(expires_at=func.least(func.coalesce(table.c.expires_at, end), end))
            )
            await self._add(connection, account)
            await self._remove_old(connection, account)
            return (await self._valid(connection, account))[0]

    async def _valid(self, connection: AsyncConnection, account: str) -> list[Secret]:
        query = (
            select(table.c.secret, table.c.created_at, table.c.expires_at)
            .where(table.c.account == account, or_(table.c.expires_at.is_(None), _is_ahead()))
            .order_by(table.c.id.desc())
        )
        return [
            Secret(self._secret_box.open(row.secret, account), row.created_at, row.expires_at)
            for row in await connection.execute(query)
        ]

    async def _add(self, connection: AsyncConnection, account: str) -> None:
        text = "whsec_" + base64.b64encode(os.urandom(_SECRET_BYTES)).decode()
        await connection.execute(
            insert(table).values(account=account, secret=self._secret_box.seal(text, account))
        )

    async def _remove_old(self, connection: AsyncConnection, account: str) -> None:
        newest = (
            select(table.c.id)
            .where(table.c.account == account)
            .order_by(table.c.id.desc())
            .limit(self._settings.most_secrets)
        )
        await connection.execute(
            delete(table).where(
                table.c.account == account, or_(table.c.expires_at <= func.now(), table.c.id.not_in(newest))
            )
        )


async def reseal_secrets(database_url: str) -> int:
    """Seals the secrets of all accounts with the newest key of the environment; returns how many there are.

    Raises UnreadableSecretError for one that none of the keys opens.
    """
    secret_box, engine = SecretBox.from_environment(), connect(database_url, 1)
    try:
        async with engine.begin() as connection:
            rows = (
                await connection.execute(
                    select(table.c.id, table.c.account, table.c.secret).with_for_update()
                )
            ).all()
            for row in rows:
                text = secret_box.open(row.secret, row.account)
                await connection.execute(
                    update(table)
                    .where(table.c.id == row.id)
                    .values(secret=secret_box.seal(text, row.account))
                )
    finally:
        await engine.dispose()
    return len(rows)


def signed_headers(secrets: Sequence[str], message_id: str, now: datetime, body: str) -> dict[str, str]:
    """The three headers of Standard Webhooks, with a signature by each secret; `now` is the time of sending."""
    now = now.astimezone(UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Webhook(secret).sign(message_id, now, body) for secret in secrets),
    }


def _is_ahead():
    return table.c.expires_at > func.now()


async def _lock(connection: AsyncConnection, account: str) -> None:
    """Locks the secrets of an account until the transaction ends."""
    await connection.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(account, 0))))
