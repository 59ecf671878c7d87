"""One session's running world: the chunk loop, and the frames on their way out."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.client_messages import Format
from deployments.decoding import ChunkDecoding, Decodings
from deployments.errors import ApiError
from deployments.held_controls import HeldControls
from deployments.journal import SessionJournal
from deployments.messages import Chunk, DecodeRequest, Follow, Instruction
from deployments.pacing import ChunkClock
from deployments.session_record import Entry
from deployments.shown_chunks import ChunkTimes, ShownChunks
from deployments.wire import FrameHeader
from deployments.world_client import WorldClient
from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.session_log import Followed, Spoken, VideoPrompt, rounded

logger = logging.getLogger("ray.serve")

MAX_FOLLOWED = 500
"""Video prompts that a session follows, one after the other; all are written with each, and those lifted too."""


class Outlet(Protocol):
    """Where frames and messages go."""

    async def send_frame(self, header: FrameHeader, jpeg: bytes) -> int:
        """Sends a frame and returns its bytes, or drops it and returns 0 if the client is behind."""

    async def send_fragment(self, header: FrameHeader, interval_ms: float, file: bytes) -> int:
        """The same with the fragment of a chunk's MP4 file, whose first frame the header tells of."""

    async def send_message(self, message: dict[str, Any]) -> None:
        """Sends a JSON message."""


@dataclass(frozen=True)
class _Drawn:
    number: int
    chunk: Chunk
    timestamp: float | None
    times: ChunkTimes
    decoding: ChunkDecoding
    logging: asyncio.Task[None]


@dataclass(frozen=True)
class _File:
    """A file of a chunk, which begins with one of its frames; when that is due, and the time between two."""

    frame: int
    content: bytes
    decode_ms: float
    due_s: float
    interval_s: float


class Player:
    """Draws a session for one socket.

    Chunk n + 1 is drawn while chunk n is decoded and shown; at most one chunk waits in between. A chunk is shown when
    it has been logged: what was seen is never lost.
    """

    def __init__(
        self,
        world: WorldClient,
        decodings: Decodings,
        size: tuple[int, int],
        controls: HeldControls,
        journal: SessionJournal,
        outlet: Outlet,
    ) -> None:
        self.world = world
        self.clock = ChunkClock()
        self.controls = controls
        self.every = 1
        self.format: Format = "jpeg"
        self._journal = journal
        self._decodings = decodings
        self._size = size
        self._outlet = outlet
        self._shown = ShownChunks(self.clock)
        self._instruction: tuple[str, Instruction] | None = None
        self._follow: tuple[str, Follow] | None = None
        self._drawing = -1
        self._drawn: asyncio.Queue[_Drawn] = asyncio.Queue(maxsize=1)
        world.on_recovering = self._tell_recovering

    async def run(self) -> None:
        """Plays until it is cancelled; raises what ended it.

        That is WorldRefusedError, WorldLostError, SessionMovedError, SessionGoneError, or a fault.
        """
        await self.world.begin()
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._draw())
                loops.create_task(self._show())
        except ExceptionGroup as failed:
            # The first is the cause; the other loop was ended with it.
            raise failed.exceptions[0] from None
        finally:
            while not self._drawn.empty():
                drawn = self._drawn.get_nowait()
                drawn.decoding.cancel()
                await asyncio.gather(drawn.logging, return_exceptions=True)

    def instruct(self, text: str, instruction: Instruction) -> int:
        """Puts words in force with the next chunk; returns that chunk's number at the earliest."""
        self._instruction = text, instruction
        return self._journal.record.version

    def video_prompt(self, prompt_id: str) -> VideoPrompt | None:
        """A video prompt of the session, if it is known here."""
        return self._journal.record.video_prompts.get(prompt_id)

    def follow(self, prompt: VideoPrompt | None, follow: Follow) -> int:
        """Has the world follow a video prompt from the next chunk on, or none; returns that chunk's number.

        Raises ApiError where the log has no room for more.
        """
        record = self._journal.record
        if len(record.followed) >= MAX_FOLLOWED:
            message = f"this session has followed {MAX_FOLLOWED} video prompts: go on in another"
            raise ApiError(422, "too_many_video_prompts", message)
        if prompt:
            self._journal.keep(prompt)
        self._follow = prompt.id if prompt else "", follow
        return max(record.version, self._drawing + 1)

    async def _tell_recovering(self, recovering: bool) -> None:
        self._journal.state = "recovering" if recovering else "playing"
        await self._outlet.send_message({"type": "status", "state": self._journal.state})

    async def _draw(self) -> None:
        while True:
            while (delay_s := self.clock.step_delay_s()) > 0:
                await asyncio.sleep(delay_s)
            number = self._journal.record.version
            memory, recoveries = self.world.latent, self.world.num_recoveries
            control, timestamp = rounded(self.controls.take()), self.controls.timestamp
            arrived_s = None if timestamp is None else self.controls.arrived_s
            # Taken before the await: words that arrive while this chunk is drawn belong to the next.
            said, self._instruction = self._instruction, None
            follow, self._follow = self._follow, None
            self._drawing = number
            start = time.monotonic()
            steering = said[1] if said else None, self.clock.is_late, follow[1] if follow else None
            chunk = await self.world.step(control.operations(), *steering)
            times = ChunkTimes(arrived_s, start, time.monotonic())
            spoken = (Spoken(number, said[0], said[1].blend_chunks),) if said else ()
            followed = (Followed(number, follow[0]),) if follow else ()
            self._journal.add(Entry(control, spoken, followed), chunk.snapshot)
            is_typical = memory is not None and recoveries == self.world.num_recoveries
            self.clock.stepped(times.drawn_s - start, is_typical)
            first = FRAMES_PER_CHUNK * number if self.format == "fmp4" else None
            request = DecodeRequest(chunk.latent, memory, self._size, first)
            decoding = ChunkDecoding(self._decodings, request, self.clock, start, is_typical)
            logging = asyncio.create_task(self._journal.flush())
            await self._drawn.put(_Drawn(number, chunk, timestamp, times, decoding, logging))

    async def _show(self) -> None:
        while True:
            drawn = await self._drawn.get()
            await drawn.logging
            turn: tuple[float, float] | None = None
            frame = 0
            try:
                async for file, decode_ms in drawn.decoding:
                    turn = turn or self.clock.show()
                    due_s = turn[0] + frame * turn[1]
                    await asyncio.sleep(due_s - time.monotonic())
                    frame += await self._send(_File(frame, file, decode_ms, due_s, turn[1]), drawn)
            except Exception:
                logger.exception("a chunk could not be decoded and is left out")
            turn = turn or self.clock.show()
            self._shown.chunk(turn[1], drawn.times, drawn.decoding.first_came_s)

    async def _send(self, file: _File, drawn: _Drawn) -> int:
        """Returns how many frames the file has."""
        num_frames = FRAMES_PER_CHUNK // drawn.decoding.num_files
        sequence = FRAMES_PER_CHUNK * drawn.number + file.frame
        if num_frames == 1 and sequence % self.every:
            self._shown.frames(None)
            return num_frames
        times_ms = drawn.chunk.step_ms, file.decode_ms, drawn.times.wait_ms, 1000 * file.due_s
        header = FrameHeader(file.frame, sequence, drawn.number, drawn.timestamp, *times_ms)
        if num_frames == 1:
            num_bytes = await self._outlet.send_frame(header, file.content)
        else:
            num_bytes = await self._outlet.send_fragment(header, 1000 * file.interval_s, file.content)
        self._shown.frames(num_bytes, num_frames, file.interval_s)
        if num_bytes:
            self._journal.frames_sent += num_frames
        else:
            self._journal.frames_dropped += num_frames
        return num_frames
