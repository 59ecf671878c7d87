"""Orders as clients see them."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Literal

from deployments.videos.schemas import VideoError, VideoState
from gamegen.controls import FPS
from gamegen.videos.records import Event, Generation
from gamegen.videos.states import FINAL, State

Status = Literal["queued", "in_progress", "completed", "failed"]
"""OpenAI's words."""
_QUEUED = frozenset({State.PENDING, State.ENCODING, State.QUEUED})
_DRAWN = frozenset(
    {State.VAE_DECODING, State.SAFETY_CHECKING, State.TRANSCODING, State.UPLOADING, State.COMPLETED}
)
STATES_OF: dict[str, frozenset[State]] = {
    **{state.lower(): frozenset({state}) for state in State},
    "queued": _QUEUED,
    "in_progress": frozenset(State) - FINAL - _QUEUED,
}
"""What each `status` of a list asks for: OpenAI's words, and our states in small letters."""


def status_of(state: State) -> Status:
    """OpenAI's word for a state; what was cancelled or blocked has failed."""
    if state in _QUEUED:
        return "queued"
    if state in FINAL:
        return "completed" if state is State.COMPLETED else "failed"
    return "in_progress"


def shown(video: Generation, kept_days: int) -> VideoState:
    """An order as it is now; its files go `kept_days` after it ended."""
    order, here = video.order, f"/v1/videos/{video.id}"
    has_files = video.result is not None and video.expired_at is None
    return VideoState(
        id=video.id,
        status=status_of(video.state),
        state=video.state,
        progress=int(100 * video.progress),
        created_at=_seconds(video.created_at),
        completed_at=_completed_at(video),
        expires_at=_expires_at(video, kept_days),
        model=order.model,
        prompt=order.prompt,
        size=f"{order.width}x{order.height}",
        seconds=f"{order.num_frames / FPS:g}",
        error=_error(video),
        negative_prompt=order.negative_prompt,
        perspective=order.perspective,
        num_frames=order.num_frames,
        fps=order.fps,
        num_steps=order.num_steps,
        guidance_scale=order.guidance_scale,
        seed=order.seed,
        tier=video.tier,
        priority=video.priority,
        step=video.step,
        remaining_s=None if video.remaining_s is None else round(video.remaining_s, 1),
        attempts=video.attempts,
        credits=video.millicredits / 1000,
        is_kept=video.is_kept,
        content_url=f"{here}/content" if has_files else None,
        thumbnail_url=f"{here}/thumbnail" if has_files else None,
        webhook_url=video.webhook_url,
    )


def as_of(video: Generation, event: Event) -> Generation:
    """An order as it was when something happened to it, as far as that is shown."""
    if event.state in FINAL:
        return video
    step, step_ms = (
        event.data.get("step", _step_at(video, event.state)),
        event.data.get("step_ms", video.step_ms),
    )
    so_far = replace(video, state=event.state, step=step, step_ms=step_ms)
    return replace(so_far, finished_at=None, failure=None, result=None)


def _step_at(video: Generation, state: State) -> int:
    """What is known of the steps of an order that was in a state."""
    if state is video.state:
        return video.step
    return video.num_steps if state in _DRAWN else 0


def _seconds(time: datetime) -> int:
    return int(time.timestamp())


def _completed_at(video: Generation) -> int | None:
    return _seconds(video.finished_at) if video.finished_at and video.state is State.COMPLETED else None


def _expires_at(video: Generation, kept_days: int) -> int | None:
    if video.result is None or video.finished_at is None or video.is_kept:
        return None
    return _seconds(video.expired_at or video.finished_at + timedelta(days=kept_days))


def _error(video: Generation) -> VideoError | None:
    if video.failure is not None:
        return VideoError(code=video.failure.code, message=video.failure.message)
    if video.state is State.CANCELLED:
        return VideoError(code="cancelled", message="this video was cancelled")
    return None
