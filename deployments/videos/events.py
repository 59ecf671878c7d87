"""Event streams of videos: server-sent events and WebSockets."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass
from itertools import zip_longest
from typing import Literal

from fastapi import WebSocket, WebSocketDisconnect
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from deployments.errors import ApiError
from deployments.videos.problems import UNAVAILABLE_ERRORS
from deployments.videos.schemas import VideoState
from deployments.videos.settings import VideoApiSettings
from deployments.videos.views import as_of, video_state
from gamegen.service.orders.listen import Listener
from gamegen.service.orders.queue import VideoQueue
from gamegen.service.orders.records import Event, Generation
from gamegen.service.orders.states import FINAL, State

logger = logging.getLogger("ray.serve")

EventName = Literal["progress", "phase_change", "completed", "error"]
_RECONNECT_MS = 1000
_CLOSE_OK, _CLOSE_COME_BACK = 1000, 1012


@dataclass(frozen=True)
class VideoEvent:
    """A named event with the video's state at that time; a client that reconnects continues after `id`."""

    name: EventName
    id: int
    video: VideoState


class EventStreams:
    """The open event streams of one ingress replica, of which there are at most `max_streams`."""

    def __init__(self, queue: VideoQueue, listener: Listener, settings: VideoApiSettings) -> None:
        self._queue = queue
        self._listener = listener
        self._settings = settings
        self.num_open = 0

    def check_limit(self) -> None:
        """Raises ApiError (503) if `max_streams` streams are open."""
        if self.num_open >= self._settings.max_streams:
            message = (
                f"{self.num_open} event streams are open, which is the limit: poll GET /v1/videos/ID instead"
            )
            raise ApiError(503, "too_many_streams", message, retry_after_s=10)

    async def has_ended(self, video: Generation, last_id: int) -> bool:
        """True if a video has ended and no event follows `last_id`."""
        return video.state in FINAL and not await self._queue.events_after(video.id, last_id)

    async def events(
        self, video: Generation, last_id: int, base_path: str
    ) -> AsyncGenerator[VideoEvent | None]:
        """The events of a video after `last_id` until it has ended; None every `heartbeat_s` without one.

        Progress events that a later one overtakes before they are sent are left out. URLs are below `base_path`.
        """
        async with self._listener.watching(video.id) as watch:
            while True:
                events = await self._queue.events_after(video.id, last_id)
                video = await self._queue.get(video.id, video.account)
                for event in _without_overtaken_progress(events):
                    shown = video_state(as_of(video, event), self._settings.kept_days, base_path)
                    yield VideoEvent(_name_of(event), event.id, shown)
                    if event.state in FINAL:
                        return
                if events:
                    last_id = events[-1].id
                elif video.state in FINAL:
                    # It may have ended between the two queries.
                    if not await self._queue.events_after(video.id, last_id):
                        return
                elif not await watch.changed(self._settings.heartbeat_s):
                    yield None

    async def server_sent_events(
        self, video: Generation, last_id: int, base_path: str
    ) -> AsyncIterator[bytes]:
        """The events of a video as server-sent events, until it has ended or the database cannot be reached."""
        yield format_sse_event(retry=_RECONNECT_MS)
        with self._counted():
            async with aclosing(self.events(video, last_id, base_path)) as events:
                try:
                    async for event in events:
                        yield KEEPALIVE_COMMENT if event is None else _as_sse(event)
                # The client reconnects by itself and gets the rest.
                except UNAVAILABLE_ERRORS as error:
                    logger.warning("an event stream of %s ends early: %s", video.id, type(error).__name__)

    async def send_to_socket(self, video: Generation, socket: WebSocket) -> None:
        """Sends the events of a video to an accepted WebSocket as JSON; closes it when the video has ended."""
        with self._counted():
            sending = asyncio.create_task(self._send_all(video, socket))
            disconnect = asyncio.create_task(_wait_for_disconnect(socket))
            try:
                await asyncio.wait((sending, disconnect), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (sending, disconnect):
                    task.cancel()
                await asyncio.gather(sending, disconnect, return_exceptions=True)
        if not sending.cancelled():
            code = _CLOSE_COME_BACK if sending.exception() else _CLOSE_OK
            # The client may have disconnected by now.
            with suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(code)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.num_open += 1
        try:
            yield
        finally:
            self.num_open -= 1

    async def _send_all(self, video: Generation, socket: WebSocket) -> None:
        async with aclosing(self.events(video, 0, socket.scope["root_path"])) as events:
            async for event in events:
                if event is not None:
                    body = event.video.model_dump(mode="json")
                    await socket.send_json({"type": event.name, "id": event.id, "video": body})


async def _wait_for_disconnect(socket: WebSocket) -> None:
    # Messages from the client have no meaning here.
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _without_overtaken_progress(events: Sequence[Event]) -> list[Event]:
    known = [event for event in events if event.kind in ("state", "progress")]
    return [
        event
        for event, follower in zip_longest(known, known[1:])
        if not (event.kind == "progress" and follower and follower.kind == "progress")
    ]


def _name_of(event: Event) -> EventName:
    if event.state in FINAL:
        return "completed" if event.state is State.COMPLETED else "error"
    return "phase_change" if event.kind == "state" else "progress"


def _as_sse(event: VideoEvent) -> bytes:
    return format_sse_event(data_str=event.video.model_dump_json(), event=event.name, id=str(event.id))
