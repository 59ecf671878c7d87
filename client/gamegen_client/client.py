"""The synchronous client of one server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gamegen_client.download import Progress, fetch
from gamegen_client.errors import ProblemError
from gamegen_client.events import read_events
from gamegen_client.transport import Backoff, Transport

FINAL_STATES = frozenset({"COMPLETED", "FAILED", "CANCELLED", "BLOCKED"})
"""Nothing follows these."""
_STREAM_SILENCE_S = 60.0
"""The server says something far more often than that: a stream so silent is broken."""
_FIRST_POLL_S, _MOST_POLL_S = 0.5, 10.0
_EVENTS = frozenset({"progress", "phase_change", "completed", "error"})
Video = dict[str, Any]
"""A video as the server shows it: see docs/videos.md for its fields."""


@dataclass(frozen=True)
class Update:
    """An event of a video (`progress`, `phase_change`, `completed` or `error`) and the video's state after it."""

    event: str
    video: Video


class Client:
    """Orders clips and fetches them.

    A request is tried `max_retries` times more while the server is away or busy, with the same X-Request-ID: an order
    is placed once. Raises the errors of `gamegen_client.errors`.
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        api_key: str | None = None,
        timeout_s: float = 60.0,
        max_retries: int = 5,
    ) -> None:
        self._transport = Transport(base_url, api_key, timeout_s, max_retries)
        self._max_retries = max_retries

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._transport.http.close()

    def create(
        self,
        prompt: str,
        image: str | Path | None = None,
        video: str | Path | None = None,
        request_id: str | None = None,
        **settings: Any,
    ) -> Video:
        """Orders a clip; `image` and `video` are files to begin with, `settings` the other fields of an order.

        The same `request_id` and order gives the same video, however often it is asked for.
        """
        body = {"prompt": prompt, **{name: value for name, value in settings.items() if value is not None}}
        for name, file in (("image", image), ("video", video)):
            if file is not None:
                body[name] = base64.b64encode(Path(file).read_bytes()).decode("ascii")
        headers = {"X-Request-ID": request_id} if request_id else {}
        return self._transport.send("POST", "/v1/videos", json=body, headers=headers).json()

    def get(self, video_id: str) -> Video:
        """A video's current state."""
        return self._transport.send("GET", _path(video_id)).json()

    def list(self, status: str | None = None, limit: int = 20, offset: int = 0) -> dict[str, Any]:
        """A page of the account's videos, the newest first: `{"data": [...], "total": ...}`."""
        asked = {"limit": limit, "offset": offset, **({"status": status} if status else {})}
        return self._transport.send("GET", "/v1/videos", params=asked).json()

    def cancel(self, video_id: str) -> dict[str, Any]:
        """Cancels a video; raises ConflictError if it has ended."""
        return self._transport.send("DELETE", _path(video_id)).json()

    def remove(self, video_id: str) -> dict[str, Any]:
        """Removes a finished video's files; one that has not ended is cancelled."""
        return self._transport.send("DELETE", _path(video_id), params={"files": "true"}).json()

    def keep(self, video_id: str, kept: bool = True) -> Video:
        """Exempts a video's files from deletion by age, or ends that."""
        return self._transport.send("POST", _path(video_id, "keep"), json={"kept": kept}).json()

    def download(
        self, video_id: str, file: str | Path, tries: int = 5, progress: Progress | None = None
    ) -> Path:
        """Downloads a finished clip; resumes an interrupted download, checks size and SHA-256."""
        return fetch(self._transport, _path(video_id, "content"), Path(file), tries, progress)

    def thumbnail(self, video_id: str, file: str | Path) -> Path:
        """Fetches a finished clip's small picture, a JPEG file."""
        return fetch(self._transport, _path(video_id, "thumbnail"), Path(file), self._max_retries)

    def wait(self, video_id: str) -> Video:
        """Waits until a video has ended in any state; returns it."""
        updates: list[Update] = [*self.watch(video_id)]
        return updates[-1].video

    def watch(self, video_id: str) -> Iterator[Update]:
        """Yields a video's updates until it has ended; the last has its final state.

        A stream that breaks is taken up where it broke; where there is none, the video is asked for now and then.
        """
        last_id: str | None = None
        backoff, failures = Backoff(), 0
        while failures <= self._max_retries:
            try:
                for event_id, update in self._stream(video_id, last_id):
                    last_id, failures = event_id, 0
                    backoff.reset()
                    yield update
                    if update.video["state"] in FINAL_STATES:
                        return
            except httpx.TransportError:
                pass
            except ProblemError as error:
                if error.status < 500 and error.status != 429:
                    raise
            failures += 1
            backoff.wait()
        yield from self._poll(video_id)

    def _stream(self, video_id: str, last_id: str | None) -> Iterator[Any]:
        headers = {"Accept": "text/event-stream"}
        if last_id is not None:
            headers["Last-Event-ID"] = last_id
        timeout = httpx.Timeout(_STREAM_SILENCE_S)
        with self._transport.streamed(_path(video_id, "stream"), headers, timeout=timeout) as response:
            # Everything was told already.
            if response.status_code == 204:
                yield last_id, _ended(self.get(video_id))
            for event in read_events(response.iter_lines()):
                if event.name in _EVENTS:
                    yield event.id, Update(event.name, json.loads(event.data))

    def _poll(self, video_id: str) -> Iterator[Update]:
        delay_s, seen = _FIRST_POLL_S, None
        while True:
            video = self.get(video_id)
            state = video["state"]
            if state in FINAL_STATES:
                yield _ended(video)
                return
            now = state, video["step"]
            if now != seen:
                yield Update("progress" if seen and seen[0] == state else "phase_change", video)
            delay_s = _FIRST_POLL_S if now != seen else min(1.5 * delay_s, _MOST_POLL_S)
            seen = now
            time.sleep(delay_s)


def _ended(video: Video) -> Update:
    return Update("completed" if video["state"] == "COMPLETED" else "error", video)


def _path(video_id: str, *parts: str) -> str:
    if not video_id or not all(character.isalnum() or character in "_-" for character in video_id):
        raise ValueError(f"{video_id!r} is not a video id: use letters, digits, _ and -")
    return "/".join(("/v1/videos", video_id, *parts))
