"""What happens to an order, told to whoever watches it: as server-sent events or on a WebSocket."""

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
from deployments.videos.problems import NOT_THERE
from deployments.videos.schemas import VideoState
from deployments.videos.service import VideoService
from deployments.videos.showing import as_of, shown
from gamegen.videos.records import Event, Generation
from gamegen.videos.states import FINAL, State

logger = logging.getLogger("ray.serve")

Kind = Literal["progress", "phase_change", "completed", "error"]
_RECONNECT_MS = 1000
_CLOSE_OK, _CLOSE_COME_BACK = 1000, 1012


@dataclass(frozen=True)
class Told:
    """Something to tell; a watcher who comes back goes on after the event `id`."""

    kind: Kind
    id: int
    video: VideoState


class Streams:
    """Those who watch, of whom there may be so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = 0

    def check(self) -> None:
        """Raises ApiError (503) if there are as many already."""
        if self.count >= self._most:
            message = f"{self.count} watch already: ask for the video's state now and then instead"
            raise ApiError(503, "too_many_streams", message, retry_after_s=10)

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Counts a watcher while it is entered."""
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


async def happenings(service: VideoService, video: Generation, last_id: int) -> AsyncGenerator[Told | None]:
    """What happened after an event, then what happens until the order has ended; None every now and then.

    Progress that was overtaken before it could be told is left out.
    """
    async with service.listener.watching(video.id) as watch:
        while True:
            events = await service.queue.events_after(video.id, last_id)
            video = await service.queue.get(video.id, video.account)
            for event in _worth_telling(events):
                state = as_of(video, event)
                yield Told(_kind_of(event), event.id, shown(state, service.settings.kept_days))
                if event.state in FINAL:
                    return
            if events:
                last_id = events[-1].id
            elif video.state in FINAL:
                # It may have ended between the two questions.
                if not await service.queue.events_after(video.id, last_id):
                    return
            elif not await watch.changed(service.settings.heartbeat_s):
                yield None


async def sse(
    service: VideoService, streams: Streams, video: Generation, last_id: int
) -> AsyncIterator[bytes]:
    """The same as a stream of server-sent events, which ends with the order or with the database."""
    yield format_sse_event(retry=_RECONNECT_MS)
    with streams.one_more():
        async with aclosing(happenings(service, video, last_id)) as told_ones:
            try:
                async for told in told_ones:
                    yield KEEPALIVE_COMMENT if told is None else _as_sse(told)
            # Whoever watches comes back by itself and is told the rest.
            except NOT_THERE as error:
                logger.warning("a stream of %s ends early: %s", video.id, type(error).__name__)


async def tell_socket(service: VideoService, streams: Streams, video: Generation, socket: WebSocket) -> None:
    """The same on a WebSocket that is open, as JSON; it is closed when the order has ended."""
    with streams.one_more():
        telling = asyncio.create_task(_tell_all(service, video, socket))
        leaving = asyncio.create_task(_until_gone(socket))
        try:
            await asyncio.wait((telling, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (telling, leaving):
                task.cancel()
            await asyncio.gather(telling, leaving, return_exceptions=True)
    if not telling.cancelled():
        code = _CLOSE_COME_BACK if telling.exception() else _CLOSE_OK
        # It may be gone by now.
        with suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code)


async def _tell_all(service: VideoService, video: Generation, socket: WebSocket) -> None:
    async with aclosing(happenings(service, video, 0)) as told_ones:
        async for told in told_ones:
            if told is not None:
                await socket.send_json(
                    {"type": told.kind, "id": told.id, "video": told.video.model_dump(mode="json")}
                )


async def _until_gone(socket: WebSocket) -> None:
    # Nothing that is said here means anything.
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _worth_telling(events: Sequence[Event]) -> list[Event]:
    known = [event for event in events if event.kind in ("state", "progress")]
    return [
        event
        for event, follower in zip_longest(known, known[1:])
        if not (event.kind == "progress" and follower and follower.kind == "progress")
    ]


def _kind_of(event: Event) -> Kind:
    if event.state in FINAL:
        return "completed" if event.state is State.COMPLETED else "error"
    return "phase_change" if event.kind == "state" else "progress"


def _as_sse(told: Told) -> bytes:
    return format_sse_event(data_str=told.video.model_dump_json(), event=told.kind, id=str(told.id))
