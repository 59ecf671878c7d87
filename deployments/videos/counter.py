"""The desk of this process, where the routes find it: they may have been made in another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deployments.errors import ApiError

if TYPE_CHECKING:
    from deployments.videos.api import VideoApi
    from deployments.videos.desk import VideoDesk

_desk: VideoDesk | None = None


def open_with(desk: VideoDesk | None) -> None:
    """Orders are taken at this desk from now on; None closes."""
    global _desk
    _desk = desk


def is_open() -> bool:
    """Whether orders are taken."""
    return _desk is not None


def video_api() -> VideoApi:
    """What answers the routes; raises ApiError (503) until it is there."""
    if _desk is None:
        message = "clips cannot be ordered yet: the server is starting, try again in a few seconds"
        raise ApiError(503, "not_ready", message, retry_after_s=3)
    return _desk.api
