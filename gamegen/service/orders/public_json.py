"""The public JSON of a video: the fields that the HTTP API and the webhooks share."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from gamegen.constants import FPS
from gamegen.service.orders.order import Order
from gamegen.service.orders.records import Failure, Generation
from gamegen.service.orders.states import FINAL, State

Status = Literal["queued", "in_progress", "completed", "failed"]
"""OpenAI's status of a video."""

_QUEUED = frozenset({State.PENDING, State.ENCODING, State.QUEUED})
_CANCELLED = Failure("cancelled", "this video was cancelled")


def status_of(state: State) -> Status:
    """OpenAI's status for a state; cancelled and blocked videos have failed."""
    if state in _QUEUED:
        return "queued"
    if state in FINAL:
        return "completed" if state is State.COMPLETED else "failed"
    return "in_progress"


def public_json(video: Generation) -> dict[str, Any]:
    """A video as its account sees it, all values JSON; times are in Unix seconds.

    `GET /v1/videos/{id}` adds `expires_at` and `remaining_s`, which depend on the server that answers.
    """
    order, path = video.order, f"/v1/videos/{video.id}"
    has_files = video.result is not None and video.expired_at is None
    failure = video.failure or (_CANCELLED if video.state is State.CANCELLED else None)
    return {
        "id": video.id,
        "object": "video",
        "status": status_of(video.state),
        "state": video.state.value,
        "progress": int(100 * video.progress),
        "created_at": unix_s(video.created_at),
        "completed_at": _completed_at(video),
        "model": order.model,
        "prompt": order.prompt,
        "negative_prompt": order.negative_prompt,
        "perspective": order.perspective,
        "size": str(order.size),
        "drawn_size": str(order.drawn),
        "upscaler": order.upscaler,
        "interpolated_from_fps": FPS if order.fps != FPS else None,
        "seconds": f"{order.num_frames / FPS:g}",
        "quality": "standard",
        "num_frames": order.num_frames,
        "fps": order.fps,
        "num_steps": order.num_steps,
        "guidance_scale": order.guidance_scale,
        "solver": order.solver,
        "seed": order.seed,
        "tier": video.tier.value,
        "priority": video.priority,
        "step": video.step,
        "attempts": video.attempts,
        "credits": video.millicredits / 1000,
        "is_kept": video.is_kept,
        "error": {"code": failure.code, "message": failure.message} if failure else None,
        "content_url": f"{path}/content" if has_files else None,
        "thumbnail_url": f"{path}/thumbnail" if has_files else None,
        "webhook_url": video.webhook_url,
        "warnings": warnings_of(order),
    }


def warnings_of(order: Order) -> list[str]:
    """What an order asked for that costs more than it seems, or that its model does not draw by itself."""
    found = []
    if order.guidance_scale != 1:
        why = "negative_prompt: led away from by" if order.negative_prompt else "guidance_scale:"
        found.append(
            f"{why} guidance of {order.guidance_scale:g}, which takes two passes of the model a step"
        )
    if order.solver == "heun":
        found.append("solver: heun takes two passes of the model a step, but for the last of a chunk")
    if order.upscaler is not None:
        found.append(
            f"size: the model draws {order.drawn}, and what is enlarged to {order.size} has no more detail"
        )
    if order.fps != FPS:
        found.append(f"fps: {FPS} frames a second are drawn, those between are made from them")
    return found


def unix_s(time: datetime) -> int:
    """A time in whole Unix seconds."""
    return int(time.timestamp())


def _completed_at(video: Generation) -> int | None:
    return unix_s(video.finished_at) if video.finished_at and video.state is State.COMPLETED else None
