"""The clip service of one ingress replica."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime

from starlette.requests import HTTPConnection

from deployments.errors import ApiError
from deployments.observability import video_metrics
from deployments.videos.api_keys import ApiKeys
from deployments.videos.content import VideoDownloads
from deployments.videos.events import EventStreams
from deployments.videos.order_placer import OrderPlacer
from deployments.videos.schemas import Balance, NewVideo, VideoDeleted, VideoList, VideoState, WebhookDelivery
from deployments.videos.settings import VideoApiSettings
from deployments.videos.views import STATES_OF, video_state
from gamegen.service.orders.public_json import unix_s
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import (
    AlreadyEndedError,
    Generation,
    QueueStats,
    UnknownGenerationError,
)
from gamegen.service.orders.states import FINAL, State
from gamegen.service.webhooks.deliveries import Deliveries, Delivery, UnknownDeliveryError
from gamegen.service.webhooks.signing import SigningSecrets

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class VideoService:
    """Orders, shows, lists, cancels and keeps videos. All methods raise ApiError.

    `downloads` answers with a video's files, `streams` sends its events.
    """

    def __init__(
        self,
        *,
        queue: VideoQueue,
        placer: OrderPlacer,
        streams: EventStreams,
        downloads: VideoDownloads,
        deliveries: Deliveries,
        secrets: SigningSecrets,
        api_keys: ApiKeys,
        settings: VideoApiSettings,
    ) -> None:
        self.streams = streams
        self.downloads = downloads
        self._queue = queue
        self._placer = placer
        self._deliveries = deliveries
        self._secrets = secrets
        self._api_keys = api_keys
        self._settings = settings

    def account_of(self, request: HTTPConnection) -> str:
        """The account of a request's API key (401)."""
        return self._api_keys.account_of(request)

    async def create(self, new: NewVideo, account: str, request_id: str | None, base_path: str) -> VideoState:
        """Places an order; the same `request_id` and body return the same video. See `OrderPlacer.place`."""
        return self.show(await self._placer.place(new, account, request_id), base_path)

    async def find(self, video_id: str, account: str) -> Generation:
        """A video of an account (404)."""
        # PostgreSQL refuses some texts that a URL may hold.
        if not _ID.fullmatch(video_id):
            raise _unknown_video(video_id)
        try:
            return await self._queue.get(video_id, account)
        except UnknownGenerationError as error:
            raise _unknown_video(video_id) from error

    def show(self, video: Generation, base_path: str) -> VideoState:
        """A video's state as clients see it, who reach the application below `base_path`."""
        return video_state(video, self._settings.kept_days, base_path)

    async def list_videos(
        self,
        account: str,
        *,
        status: str | None,
        limit: int,
        offset: int,
        after: str | None,
        is_oldest_first: bool,
        base_path: str,
    ) -> VideoList:
        """A page of an account's videos (404 for an unknown `after`, 422 for an unknown `status`)."""
        if after is not None and not _ID.fullmatch(after):
            raise _unknown_video(after)
        try:
            # One more than is shown tells whether there are more.
            videos, total = await self._queue.list(
                account,
                _states_of(status),
                limit=limit + 1,
                offset=offset,
                after=after,
                is_oldest_first=is_oldest_first,
            )
        except UnknownGenerationError as error:
            raise _unknown_video(error.generation_id) from error
        data = [self.show(video, base_path) for video in videos[:limit]]
        return VideoList(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=len(videos) > limit,
            total=total,
        )

    async def cancel(self, video: Generation) -> VideoDeleted:
        """Ends a video, or has its generator end it at its next step (409 if it has ended)."""
        try:
            cancelled = await self._queue.cancel(video.id, video.account)
        except AlreadyEndedError as error:
            message = (
                f"this video is {error.state} already: add ?files=true to remove its files before their time"
            )
            raise ApiError(409, "already_ended", message) from error
        except UnknownGenerationError as error:
            raise _unknown_video(video.id) from error
        video_metrics.record_cancelled(cancelled)
        return VideoDeleted(id=cancelled.id, state=cancelled.state)

    async def remove_files(self, video: Generation) -> VideoDeleted:
        """Removes the files of a video that has ended; cancels one that has not."""
        if video.state not in FINAL:
            return await self.cancel(video)
        expired = await self._queue.expire(video.id, video.account)
        return VideoDeleted(id=expired.id, state=expired.state)

    async def keep(self, video: Generation, is_kept: bool, base_path: str) -> VideoState:
        """Exempts a video's files from expiry, or no longer."""
        try:
            return self.show(await self._queue.keep(video.id, video.account, is_kept), base_path)
        except UnknownGenerationError as error:
            raise _unknown_video(video.id) from error

    async def deliveries(self, video: Generation) -> list[WebhookDelivery]:
        """The webhook messages about a video, the newest first."""
        found = await self._deliveries.of(video.id, video.account)
        return [_delivery_state(one) for one in sorted(found, key=lambda one: one.created_at, reverse=True)]

    async def redeliver(self, delivery_id: str, account: str) -> WebhookDelivery:
        """Sends a webhook message again (404)."""
        message = (
            f"no webhook delivery {delivery_id[:64]!r}: see those of a video at /v1/videos/ID/deliveries"
        )
        if not _ID.fullmatch(delivery_id):
            raise ApiError(404, "unknown_delivery", message)
        try:
            return _delivery_state(await self._deliveries.redeliver(delivery_id, account))
        except UnknownDeliveryError as error:
            raise ApiError(404, "unknown_delivery", message) from error

    async def rotate_secret(self, account: str) -> str:
        """A new secret for signing an account's webhooks; the previous one stays valid for the overlap."""
        return (await self._secrets.rotate(account)).text

    async def balance(self, account: str) -> Balance:
        """The credits that an account can spend."""
        return Balance(account=account, credits=await self._queue.balance(account) / 1000)

    async def queue_stats(self) -> QueueStats:
        """The orders in the queue, by tier."""
        return await self._queue.stats()


def _unknown_video(video_id: str) -> ApiError:
    message = f"no video {video_id[:64]!r}: it was removed or never was, order one with POST /v1/videos"
    return ApiError(404, "unknown_video", message)


def _states_of(status: str | None) -> Sequence[State]:
    if status is None:
        return ()
    states = STATES_OF.get(status.lower())
    if states is None:
        raise ApiError(422, "invalid_request", f"status: {status[:64]!r}: use one of {', '.join(STATES_OF)}")
    return sorted(states)


def _delivery_state(delivery: Delivery) -> WebhookDelivery:
    def seconds(time: datetime | None) -> int | None:
        return None if time is None else unix_s(time)

    return WebhookDelivery(
        id=delivery.id,
        video_id=delivery.generation_id,
        event=delivery.event,
        url=delivery.url,
        state=delivery.state.value,
        attempts=delivery.attempts,
        status=delivery.status,
        error=delivery.error,
        created_at=unix_s(delivery.created_at),
        next_attempt_at=seconds(delivery.next_attempt_at),
        delivered_at=seconds(delivery.delivered_at),
    )
