"""What the routes do, once it is known what was asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence

from starlette.requests import HTTPConnection

from deployments.errors import ApiError
from deployments.videos import metrics
from deployments.videos.schemas import DeliveryState, NewVideo, VideoDeleted, VideoList, VideoState
from deployments.videos.service import Delivery, VideoService
from deployments.videos.showing import STATES_OF, shown
from deployments.videos.submission import Submissions
from deployments.videos.watching import Streams
from gamegen.videos.records import AlreadyEndedError, Generation, UnknownGenerationError
from gamegen.videos.states import FINAL, State

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class VideoApi:
    """One service, and what this process keeps about those who use it. Everything raises ApiError."""

    def __init__(self, service: VideoService) -> None:
        self.service = service
        self.streams = Streams(service.settings.max_streams)
        self._submissions = Submissions(service)

    def account_of(self, request: HTTPConnection) -> str:
        """Whose request it is (401)."""
        return self.service.accounts.account_of(request)

    async def create(self, new: NewVideo, account: str, request_id: str | None) -> VideoState:
        """Places an order; see `Submissions`."""
        return self.show(await self._submissions.submit(new, account, request_id))

    async def find(self, video_id: str, account: str) -> Generation:
        """An order of an account (404)."""
        # PostgreSQL refuses some texts that an address may hold.
        if not _ID.fullmatch(video_id):
            raise _unknown(video_id)
        try:
            return await self.service.queue.get(video_id, account)
        except UnknownGenerationError as error:
            raise _unknown(video_id) from error

    def show(self, video: Generation) -> VideoState:
        """An order as it is now."""
        return shown(video, self.service.settings.kept_days)

    async def listed(
        self, account: str, status: str | None, limit: int, offset: int, after: str | None, order: str
    ) -> VideoList:
        """Some of an account's orders (404 for an unknown `after`, 422 for a status that is none)."""
        if after is not None and not _ID.fullmatch(after):
            raise _unknown(after)
        try:
            # One more than is shown tells whether there are more.
            videos, total = await self.service.queue.list(
                account, _states(status), limit + 1, offset, after, order == "asc"
            )
        except UnknownGenerationError as error:
            raise _unknown(error.generation_id) from error
        data = [self.show(video) for video in videos[:limit]]
        return VideoList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(videos) > limit,
            total=total,
        )

    async def cancel(self, video: Generation, is_removing: bool) -> VideoDeleted:
        """Ends an order, or has its worker end it at its next step (409 if it has ended).

        With `is_removing` one that has ended lets its files go instead.
        """
        if is_removing and video.state in FINAL:
            expired = await self.service.queue.expire(video.id, video.account)
            return VideoDeleted(id=expired.id, state=expired.state)
        try:
            cancelled = await self.service.queue.cancel(video.id, video.account)
        except AlreadyEndedError as error:
            message = (
                f"this video is {error.state} already: add ?files=true to remove its files before their time"
            )
            raise ApiError(409, "already_ended", message) from error
        except UnknownGenerationError as error:
            raise _unknown(video.id) from error
        metrics.record_cancelled(cancelled)
        return VideoDeleted(id=cancelled.id, state=cancelled.state)

    async def keep(self, video: Generation, is_kept: bool) -> VideoState:
        """Has its files stay, or no longer."""
        try:
            return self.show(await self.service.queue.keep(video.id, video.account, is_kept))
        except UnknownGenerationError as error:
            raise _unknown(video.id) from error

    async def deliveries(self, video: Generation) -> list[DeliveryState]:
        """The webhook messages about an order, the newest first."""
        found = await self.service.deliveries.of(video.id, video.account)
        return [
            _delivery(delivery) for delivery in sorted(found, key=lambda one: one.created_at, reverse=True)
        ]

    async def redeliver(self, delivery_id: str, account: str) -> DeliveryState:
        """Has a webhook message sent again (404)."""
        try:
            if not _ID.fullmatch(delivery_id):
                raise LookupError(delivery_id)
            return _delivery(await self.service.deliveries.redeliver(delivery_id, account))
        except LookupError as error:
            message = (
                f"no webhook delivery {delivery_id[:64]!r}: see those of a video at /v1/videos/ID/deliveries"
            )
            raise ApiError(404, "unknown_delivery", message) from error


def _unknown(video_id: str) -> ApiError:
    message = f"no video {video_id[:64]!r}: it was removed or never was, order one with POST /v1/videos"
    return ApiError(404, "unknown_video", message)


def _states(status: str | None) -> Sequence[State]:
    if status is None:
        return ()
    states = STATES_OF.get(status.lower())
    if states is None:
        raise ApiError(422, "invalid_request", f"status: {status[:64]!r}: use one of {', '.join(STATES_OF)}")
    return sorted(states)


def _delivery(delivery: Delivery) -> DeliveryState:
    def seconds(time):
        return None if time is None else int(time.timestamp())

    return DeliveryState(
        id=delivery.id,
        video_id=delivery.generation_id,
        event=delivery.event,
        url=delivery.url,
        state=delivery.state,  # type: ignore[arg-type]
        attempts=delivery.attempts,
        status=delivery.status,
        error=delivery.error,
        created_at=int(delivery.created_at.timestamp()),
        next_attempt_at=seconds(delivery.next_attempt_at),
        delivered_at=seconds(delivery.delivered_at),
    )
