"""The chunk loop of one session: draws chunks, has them decoded and sends their frames."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from deployments.clients.decoder_client import DecoderClient, DecodeStream, OnDecoded
from deployments.clients.world_client import WorldClient
from deployments.errors import ApiError
from deployments.replicas.messages import (
    Chunk,
    DecodeRequest,
    Follow,
    InstructionUpdate,
)
from deployments.sessions.session_record import LoggedChunk
from deployments.stream.chunk_stats import ChunkStats, ChunkTimes
from deployments.stream.client_messages import Format
from deployments.stream.input_state import InputState
from deployments.stream.journal import SessionJournal
from deployments.stream.pacing import ChunkClock
from deployments.stream.wire import FrameHeader
from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.sessions.log import (
    LoggedInstruction,
    LoggedVideoPrompt,
    VideoPrompt,
    rounded,
)

logger = logging.getLogger("ray.serve")

MAX_FOLLOWED = 500
"""Limit on the video prompts that a session follows one after the other: all are written again with each."""


class FrameSink(Protocol):
    """Receiver of a player's frames and messages: the socket's connection."""

    async def send_frame(self, header: FrameHeader, jpeg: bytes) -> int:
        """Sends a frame and returns its size in bytes, or drops it and returns 0 if the client is behind."""

    async def send_fragment(self, header: FrameHeader, interval_ms: float, file: bytes) -> int:
        """Sends a chunk as an MP4 fragment, or drops it, as `send_frame`; `header` is of its first frame."""

    async def send_message(self, message: dict[str, Any]) -> None:
        """Sends a JSON message."""


@dataclass(frozen=True, kw_only=True)
class _DrawnChunk:
    """A chunk that is being decoded and logged; `timestamp` is of the newest control in it."""

    number: int
    chunk: Chunk
    timestamp: float | None
    times: ChunkTimes
    decoding: DecodeStream
    flush: asyncio.Task[None]


@dataclass(frozen=True, kw_only=True)
class _ChunkFile:
    """A file of a chunk: `frame` is the first of its frames, due at `due_s`, one each `interval_s`."""

    frame: int
    content: bytes
    decode_ms: float
    due_s: float
    interval_s: float


class SessionPlayer:
    """Plays a session on one socket.

    Chunk n + 1 is drawn while chunk n is decoded and shown; at most one chunk waits in between. A chunk is shown only
    after its flush to the session store: frames that were seen are not lost. `size` is (width, height) in pixels.
    """

    def __init__(
        self,
        *,
        world: WorldClient,
        decoder: DecoderClient,
        size: tuple[int, int],
        input_state: InputState,
        journal: SessionJournal,
        sink: FrameSink,
        target_fps: float,
    ) -> None:
        self.world = world
        self.clock = ChunkClock(target_fps=target_fps)
        self.input_state = input_state
        self.every = 1
        self.format: Format = "jpeg"
        self._journal = journal
        self._decoder = decoder
        self._size = size
        self._sink = sink
        self._stats = ChunkStats(self.clock)
        self._instruction: tuple[str, InstructionUpdate] | None = None
        self._follow: tuple[str, Follow] | None = None
        self._drawing_number = -1
        self._drawn: asyncio.Queue[_DrawnChunk] = asyncio.Queue(maxsize=1)
        world.on_recovering = self._tell_recovering

    async def run(self) -> None:
        """Plays until it is cancelled.

        Raises WorldRefusedError, WorldLostError, SessionMovedError or SessionGoneError.
        """
        await self.world.begin()
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(self._draw())
                loops.create_task(self._show())
        except ExceptionGroup as failed:
            # The first is the cause; the task group cancelled the other loop.
            raise failed.exceptions[0] from None
        finally:
            while not self._drawn.empty():
                drawn = self._drawn.get_nowait()
                drawn.decoding.cancel()
                await asyncio.gather(drawn.flush, return_exceptions=True)

    def instruct(self, text: str, instruction: InstructionUpdate) -> int:
        """Puts an instruction in force with the next chunk; returns that chunk's number, the earliest possible one."""
        self._instruction = text, instruction
        return self._journal.record.version

    def video_prompt(self, prompt_id: str) -> VideoPrompt | None:
        """A video prompt of the session, if its journal knows it."""
        return self._journal.record.video_prompts.get(prompt_id)

    def follow(self, prompt: VideoPrompt | None, follow: Follow) -> int:
        """Follows a video prompt from the next chunk on, or none; returns that chunk's number.

        Raises ApiError (422) after `MAX_FOLLOWED` of them.
        """
        record = self._journal.record
        if len(record.followed) >= MAX_FOLLOWED:
            message = f"this session has followed {MAX_FOLLOWED} video prompts: go on in another"
            raise ApiError(422, "too_many_video_prompts", message)
        if prompt:
            self._journal.keep(prompt)
        self._follow = prompt.id if prompt else "", follow
        return max(record.version, self._drawing_number + 1)

    async def _tell_recovering(self, recovering: bool) -> None:
        self._journal.state = "recovering" if recovering else "playing"
        await self._sink.send_message({"type": "status", "state": self._journal.state})

    async def _draw(self) -> None:
        while True:
            while (delay_s := self.clock.step_delay_s()) > 0:
                await asyncio.sleep(delay_s)
            await self._drawn.put(await self._draw_chunk())

    async def _draw_chunk(self) -> _DrawnChunk:
        number = self._drawing_number = self._journal.record.version
        previous, recoveries = self.world.latent, self.world.num_recoveries
        control, timestamp = rounded(self.input_state.take()), self.input_state.timestamp
        arrived_s = None if timestamp is None else self.input_state.arrived_s
        # Taken before the await: an instruction that arrives while this chunk is drawn belongs to the next.
        said, self._instruction = self._instruction, None
        follow, self._follow = self._follow, None
        begun_s = time.monotonic()
        chunk = await self.world.step(
            control.operations(),
            instruction=said[1] if said else None,
            was_late=self.clock.is_late,
            follow=follow[1] if follow else None,
        )
        times = ChunkTimes(arrived_s=arrived_s, begun_s=begun_s, drawn_s=time.monotonic())
        spoken = (LoggedInstruction(number, said[0], said[1].blend_chunks),) if said else ()
        followed = (LoggedVideoPrompt(number, follow[0]),) if follow else ()
        self._journal.add(LoggedChunk(control, spoken, followed), chunk.snapshot)
        is_typical = previous is not None and recoveries == self.world.num_recoveries
        self.clock.stepped(times.drawn_s - begun_s, is_typical)
        request = DecodeRequest(
            latent=chunk.latent,
            previous=previous,
            size=self._size,
            reference=chunk.reference,
            sequence=FRAMES_PER_CHUNK * number if self.format == "fmp4" else None,
        )
        on_decoded = self._timed(begun_s, is_typical)
        return _DrawnChunk(
            number=number,
            chunk=chunk,
            timestamp=timestamp,
            times=times,
            decoding=self._decoder.start(request, on_decoded),
            flush=asyncio.create_task(self._journal.flush()),
        )

    def _timed(self, begun_s: float, is_typical: bool) -> OnDecoded:
        """A callback that notes in the clock how long a chunk begun at `begun_s` took to be decoded."""
        return lambda asked_s, came_s: self.clock.decoded(begun_s, asked_s, came_s, is_typical)

    async def _show(self) -> None:
        while True:
            drawn = await self._drawn.get()
            await drawn.flush
            shown: tuple[float, float] | None = None
            frame = 0
            try:
                async for content, decode_ms in drawn.decoding:
                    shown = shown or self.clock.show()
                    start_s, interval_s = shown
                    file = _ChunkFile(
                        frame=frame,
                        content=content,
                        decode_ms=decode_ms,
                        due_s=start_s + frame * interval_s,
                        interval_s=interval_s,
                    )
                    await asyncio.sleep(file.due_s - time.monotonic())
                    frame += await self._send(file, drawn)
            except Exception:
                logger.exception("a chunk could not be decoded and is left out")
            _, interval_s = shown or self.clock.show()
            self._stats.finish_chunk(interval_s, drawn.times, drawn.decoding.first_came_s)

    async def _send(self, file: _ChunkFile, drawn: _DrawnChunk) -> int:
        """Sends or drops a file; returns the number of its frames."""
        num_frames = FRAMES_PER_CHUNK // drawn.decoding.num_files
        sequence = FRAMES_PER_CHUNK * drawn.number + file.frame
        if num_frames == 1 and sequence % self.every:
            self._stats.add_file(None)
            return num_frames
        header = FrameHeader(
            frame=file.frame,
            sequence=sequence,
            chunk=drawn.number,
            control_timestamp=drawn.timestamp,
            step_ms=drawn.chunk.step_ms,
            decode_ms=file.decode_ms,
            wait_ms=drawn.times.wait_ms,
            due_ms=1000 * file.due_s,
        )
        if num_frames == 1:
            num_bytes = await self._sink.send_frame(header, file.content)
        else:
            num_bytes = await self._sink.send_fragment(header, 1000 * file.interval_s, file.content)
        self._stats.add_file(num_bytes, num_frames, file.interval_s)
        if num_bytes:
            self._journal.frames_sent += num_frames
        else:
            self._journal.frames_dropped += num_frames
        return num_frames
