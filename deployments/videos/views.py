"""Videos as the HTTP API shows them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from deployments.videos.schemas import VideoState
from gamegen.service.orders.public_json import public_json, status_of, unix_s
from gamegen.service.orders.records import Event, Generation
from gamegen.service.orders.states import FINAL, State

_DENOISED = frozenset(
    {State.VAE_DECODING, State.SAFETY_CHECKING, State.TRANSCODING, State.UPLOADING, State.COMPLETED}
)
STATES_OF: dict[str, frozenset[State]] = {
    **{state.lower(): frozenset({state}) for state in State},
    **{
        status: frozenset(state for state in State if status_of(state) == status)
        for status in ("queued", "in_progress")
    },
}
"""The states that each `status` of a list selects: OpenAI's words, and the states in lower case."""


def video_state(video: Generation, kept_days: int, base_path: str) -> VideoState:
    """A video's state now; its files expire `kept_days` after it ended, and their URLs are below `base_path`."""
    remaining_s = None if video.remaining_s is None else round(video.remaining_s, 1)
    fields = public_json(video)
    for name in ("content_url", "thumbnail_url"):
        if fields[name] is not None:
            fields[name] = base_path + fields[name]
    return VideoState(**fields, expires_at=_expires_at(video, kept_days), remaining_s=remaining_s)


def as_of(video: Generation, event: Event) -> Generation:
    """A video as it was at an event, in the fields that the API shows."""
    if event.state in FINAL:
        return video
    return replace(
        video,
        state=event.state,
        step=event.data.get("step", _step_in(event.state, video)),
        step_ms=event.data.get("step_ms", video.step_ms),
        finished_at=None,
        failure=None,
        result=None,
    )


def _step_in(state: State, video: Generation) -> int:
    """The denoising steps that a video is known to have done when it was in `state`."""
    if state is video.state:
        return video.step
    return video.num_steps if state in _DENOISED else 0


def _expires_at(video: Generation, kept_days: int) -> int | None:
    if video.result is None or video.finished_at is None or video.is_kept:
        return None
    return unix_s(video.expired_at or video.finished_at + timedelta(days=kept_days))
