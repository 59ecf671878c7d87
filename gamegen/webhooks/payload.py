"""What a webhook says: how an order ended, in the words of the API."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from gamegen.database.tables import generations
from gamegen.videos.reading import generation_of
from gamegen.videos.records import Failure, Generation
from gamegen.videos.states import FINAL, State

_DRAWN_FPS = 24
_CANCELLED = Failure("cancelled", "this video was cancelled")


async def payloads(connection: AsyncConnection, ids: Collection[str]) -> dict[str, dict[str, Any]]:
    """The messages about orders that have ended, by their ids."""
    if not ids:
        return {}
    rows = await connection.execute(select(generations).where(generations.c.id.in_(ids)))
    return {row.id: payload_of(generation_of(row)) for row in rows}


def payload_of(generation: Generation) -> dict[str, Any]:
    """The message about an order that has ended; raises ValueError about one that has not.

    `data` has the fields of `GET /v1/videos/{id}` that an order itself knows: when its files expire is asked there.
    """
    if generation.state not in FINAL or generation.finished_at is None:
        raise ValueError(f"order {generation.id} is {generation.state}: a webhook tells how an order ended")
    return {
        "type": f"video.{generation.state.lower()}",
        "timestamp": generation.finished_at.isoformat(),
        "data": _video_of(generation),
    }


def _video_of(generation: Generation) -> dict[str, Any]:
    order = generation.order
    failure = generation.failure or (_CANCELLED if generation.state is State.CANCELLED else None)
    is_completed = generation.state is State.COMPLETED
    path = f"/v1/videos/{generation.id}"
    return {
        "id": generation.id,
        "object": "video",
        "status": "completed" if is_completed else "failed",
        "state": generation.state.value,
        "progress": int(100 * generation.progress),
        "created_at": _unix_s(generation.created_at),
        "completed_at": _unix_s(generation.finished_at) if is_completed else None,
        "model": order.model,
        "prompt": order.prompt,
        "negative_prompt": order.negative_prompt,
        "perspective": order.perspective,
        "size": f"{order.width}x{order.height}",
        "seconds": f"{order.num_frames / _DRAWN_FPS:g}",
        "quality": "standard",
        "num_frames": order.num_frames,
        "fps": order.fps,
        "num_steps": order.num_steps,
        "guidance_scale": order.guidance_scale,
        "seed": order.seed,
        "tier": generation.tier.value,
        "priority": generation.priority,
        "step": generation.step,
        "attempts": generation.attempts,
        "credits": generation.millicredits / 1000,
        "is_kept": generation.is_kept,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "content_url": f"{path}/content" if is_completed else None,
        "thumbnail_url": f"{path}/thumbnail" if is_completed else None,
        "webhook_url": generation.webhook_url,
    }


def _unix_s(time: datetime | None) -> int | None:
    return int(time.timestamp()) if time else None
