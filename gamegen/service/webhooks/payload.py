"""The body of a webhook message: how an order ended, with the video's public JSON."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gamegen.service.database.tables import generations
from gamegen.service.orders.public_json import public_json
from gamegen.service.orders.reading import generation_of
from gamegen.service.orders.records import Generation
from gamegen.service.orders.states import FINAL


async def payloads(connection: AsyncConnection, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The message bodies of orders that have ended, by order id."""
    if not ids:
        return {}
    rows = await connection.execute(select(generations).where(generations.c.id.in_(ids)))
    return {row.id: payload_of(generation_of(row)) for row in rows}


def payload_of(generation: Generation) -> dict[str, Any]:
    """The message body of an order that has ended; raises ValueError for any other order."""
    if generation.state not in FINAL or generation.finished_at is None:
        raise ValueError(
            f"order {generation.id} is {generation.state}: only orders that have ended have a webhook"
        )
    return {
        "type": f"video.{generation.state.lower()}",
        "timestamp": generation.finished_at.isoformat(),
        "data": public_json(generation),
    }
