"""Simulated player: the client that `gamegen load` and `gamegen bench serve` play with."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import websockets

from gamegen.constants import FPS
from gamegen.process.error_sentences import unreachable
from gamegen.process.proxies import opener_for
from loadtest.players.key_tracks import Track
from loadtest.players.play_record import FrameRecorder, PlayerStay

PROTOCOL = 1
FINAL_CLOSE_CODES = frozenset({4001, 4401, 4404, 4408, 4410})
"""Close codes after which the session cannot be continued: taken over, unknown, idle, ended."""
FRAMES_PER_ACKNOWLEDGEMENT = 6
GIVE_UP_S = 60.0
"""Time after which a session that cannot be reached is lost."""
_FIRST_DELAY_S = 0.3
_LONGEST_DELAY_S = 5.0
_REQUEST_TIMEOUT_S = 60.0
_RETRY_AFTER_S = 5.0
_COUNTED = {"queued": "queued", "bye": "goodbyes", "migrate": "migrations", "error": "errors"}


class RefusedError(Exception):
    """The server refuses a new session for now (429 or 503)."""

    def __init__(self, status: int, retry_after_s: float) -> None:
        super().__init__(f"refused with status {status}, to be tried again in {retry_after_s:g} s")
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Server:
    """REST client of a running server; `url` without a slash at its end. Calls block."""

    url: str

    def status(self) -> dict[str, Any]:
        """The answer of `/v1/status`; raises OSError or ValueError if no such server answers."""
        return json.loads(self._ask("GET", "/v1/status"))

    def begin(self, prompt: str, seed: int) -> dict[str, Any]:
        """Opens a session; raises RefusedError, or OSError if it fails otherwise."""
        try:
            return json.loads(self._ask("POST", "/v1/sessions", {"prompt": prompt, "seed": seed}))
        except urllib.error.HTTPError as error:
            if error.code not in (429, 503):
                raise
            raise RefusedError(error.code, _seconds(error.headers.get("Retry-After"))) from error

    def end(self, session_id: str) -> bool:
        """Ends a session; returns whether the server still had it. Raises OSError if nothing answers."""
        try:
            self._ask("DELETE", f"/v1/sessions/{session_id}")
        except urllib.error.HTTPError as error:
            return error.code != 404
        return True

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with opener_for(self.url).open(request, timeout=_REQUEST_TIMEOUT_S) as response:
                return response.read()
        except http.client.HTTPException as error:
            raise OSError(f"the answer broke off: {error!r}") from error
        except urllib.error.HTTPError:
            raise
        except (urllib.error.URLError, TimeoutError) as error:
            raise OSError(unreachable(self.url, error)) from error


def _seconds(header: str | None) -> float:
    try:
        return max(0.0, float(header)) if header else _RETRY_AFTER_S
    except ValueError:
        return _RETRY_AFTER_S


class SocketPlayer:
    """Plays one session on its socket: sends a track's keys, notes frames, and comes back when the socket drops.

    The track begins at a random place; each event comes up to half a frame sooner or later than written, so that it
    has no fixed place within the server's chunks. `settings` are asked for on each socket. `others` reach the same
    sessions as `server`: each time that a socket drops the next of them is tried.
    """

    def __init__(
        self,
        server: Server,
        session: dict[str, Any],
        track: Track,
        seed: int,
        settings: Mapping[str, Any] | None = None,
        others: Sequence[Server] = (),
    ) -> None:
        self._addresses = itertools.cycle(
            [
                f"{one.url.replace('http', 'ws', 1)}/v1/sessions/{session['id']}/stream"
                for one in (server, *others)
            ]
        )
        self._direct_address: str | None = session.get("direct_stream_url")
        self._token: str | None = session.get("resume_token")
        self._track = track
        self._settings = settings
        self._chance = random.Random(seed)
        self._offset_s = self._chance.uniform(0, track.length_s)
        self._recorder = FrameRecorder()
        self._pressed: dict[float, float] = {}
        self._joined_s = time.monotonic()
        self._reached_s = self._joined_s
        self._last_stamp = 0.0
        self._sockets = 0
        self._attempts = 0
        self._greeted = False
        self._migrating = False
        self._dropped = False
        self.counts = {"reconnects": 0, "migrations": 0, "queued": 0, "goodbyes": 0, "errors": 0}
        self.lost: str | None = None

    @property
    def num_frames(self) -> int:
        """Number of frames so far."""
        return self._recorder.num_frames

    async def play(self, until_s: float, stop: asyncio.Event) -> PlayerStay:
        """Plays until a time (`time.monotonic`), until it is told to stop, or until the session is lost."""
        playing = asyncio.create_task(self._play())
        stopping = asyncio.create_task(stop.wait())
        timeout_s = max(0.0, until_s - time.monotonic())
        await asyncio.wait({playing, stopping}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        left_s = time.monotonic()
        for task in (playing, stopping):
            task.cancel()
        await asyncio.wait({playing, stopping})
        if not playing.cancelled():
            playing.result()
        frames = self._recorder.frames()
        return PlayerStay(
            frames=frames,
            pressed=self._pressed,
            joined_s=self._joined_s,
            left_s=left_s,
            **self.counts,
            lost=self.lost,
        )

    async def _play(self) -> None:
        while self.lost is None:
            self._migrating = False
            try:
                code, reason = await self._one_socket()
            except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
                code, reason = None, str(error) or type(error).__name__
            self._dropped = not self._migrating
            if self._migrating:
                continue
            if code in FINAL_CLOSE_CODES:
                self.lost = f"{code} {reason}".strip()
            elif time.monotonic() - self._reached_s > GIVE_UP_S:
                self.lost = f"not reached for {GIVE_UP_S:.0f} s: {reason}"
            else:
                delay_s = min(_LONGEST_DELAY_S, _FIRST_DELAY_S * 2**self._attempts)
                self._attempts += 1
                await asyncio.sleep(delay_s * self._chance.uniform(0.8, 1.2))

    async def _one_socket(self) -> tuple[int | None, str]:
        """Plays on one socket until it closes; returns the close code and reason."""
        self._greeted = False
        # The replica behind the direct address may be gone when its socket closes; the proxy knows which are there.
        address, self._direct_address = self._direct_address or next(self._addresses), None
        async with websockets.connect(address, max_size=None) as socket:
            with contextlib.suppress(websockets.ConnectionClosed):
                if self._token is not None:
                    hello = {"type": "hello", "token": self._token, "protocol": PROTOCOL}
                    await socket.send(json.dumps(hello))
                if self._settings:
                    await socket.send(json.dumps({"type": "settings", **self._settings}))
                typing = asyncio.create_task(self._type(socket))
                try:
                    await self._receive(socket)
                finally:
                    typing.cancel()
        return socket.close_code, socket.close_reason or ""

    async def _receive(self, socket: websockets.ClientConnection) -> None:
        newest_seen = -1
        async for message in socket:
            self._reached_s = time.monotonic()
            if not self._greeted:
                self._greet()
            if isinstance(message, str):
                self._heed(json.loads(message))
                if self._migrating:
                    return
                continue
            sequence = self._recorder.take(message, self._sockets)
            if sequence is not None and not 0 <= sequence - newest_seen < FRAMES_PER_ACKNOWLEDGEMENT:
                newest_seen = sequence
                await socket.send(json.dumps({"type": "seen", "sequence": sequence}))

    def _greet(self) -> None:
        """Notes the first message on a new socket: only now does a dropped session count as reconnected."""
        self._greeted, self._attempts = True, 0
        if self._sockets and self._dropped:
            self.counts["reconnects"] += 1
        self._sockets += 1

    def _heed(self, message: dict[str, Any]) -> None:
        kind = message.get("type")
        if kind in _COUNTED:
            self.counts[_COUNTED[kind]] += 1
        self._migrating = kind == "migrate"

    async def _type(self, socket: websockets.ClientConnection) -> None:
        """Plays the track from where it is now; the server let go of all keys when the last socket closed."""
        start_s = self._offset_s + time.monotonic() - self._joined_s
        with contextlib.suppress(websockets.ConnectionClosed):
            if held := self._track.held(start_s):
                await self._control(socket, False, keyboard={"keys": held, "state": True})
            for event in self._track.play_from(start_s):
                jitter_s = self._chance.uniform(-0.5, 0.5) / FPS
                at_s = self._joined_s + event.at_s - self._offset_s + jitter_s
                await asyncio.sleep(max(0.0, at_s - time.monotonic()))
                if event.words is not None:
                    await self._control(socket, False, instruction={"text": event.words})
                else:
                    keyboard = {"keys": event.keys, "state": event.is_down}
                    await self._control(socket, True, keyboard=keyboard)

    async def _control(self, socket: websockets.ClientConnection, is_timed: bool, **parts: Any) -> None:
        """Sends a control with a timestamp of its own, and notes it if its frame is to be timed."""
        now_s = time.monotonic()
        stamp = self._last_stamp = max(1e3 * now_s, self._last_stamp + 1e-3)
        if is_timed:
            self._pressed[stamp] = now_s
        await socket.send(json.dumps({"type": "control", "timestamp": stamp, **parts}))
