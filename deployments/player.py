"""One session's running world: what the player holds, the chunk loop, and the frames on their way out."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from ray.serve.handle import DeploymentHandle

from deployments.decoding import ChunkDecoding
from deployments.held_controls import HeldControls
from deployments.messages import Chunk, DecodeRequest, Instruction
from deployments.pacing import ChunkClock
from deployments.wire import FrameHeader
from deployments.world_client import WorldClient, WorldLostError

logger = logging.getLogger("ray.serve")


class Outlet(Protocol):
    """Where frames and messages go: the session's present socket."""

    async def send_frame(self, header: FrameHeader, jpeg: bytes) -> bool:
        """Sends a frame, or drops it and returns False if the client is behind."""

    async def send_message(self, message: dict[str, Any]) -> None:
        """Sends a JSON message."""


@dataclass(frozen=True)
class _Drawn:
    chunk: Chunk
    timestamp: float | None
    wait_ms: float
    decoding: ChunkDecoding


class Player:
    """Draws while a socket is attached and stands still while none is.

    Chunk n + 1 is drawn while chunk n is decoded and shown; at most one chunk waits in between.
    """

    def __init__(self, world: WorldClient, decoder: DeploymentHandle, size: tuple[int, int]) -> None:
        self.world = world
        self.clock = ChunkClock()
        self.controls = HeldControls()
        self.frames_sent = 0
        self.frames_dropped = 0
        self.failed: str | None = None
        self.instruction_text = ""
        self._decoder = decoder
        self._size = size
        self._outlet: Outlet | None = None
        self._attached = asyncio.Event()
        self._instruction: Instruction | None = None
        self._drawn: asyncio.Queue[_Drawn] = asyncio.Queue(maxsize=1)
        self._sequence = 0
        self._tasks: list[asyncio.Task[None]] = []
        world.on_recovering = self._tell_recovering

    def start(self) -> None:
        """Begins the loops."""
        self._tasks = [asyncio.create_task(self._draw()), asyncio.create_task(self._show())]
        for task in self._tasks:
            task.add_done_callback(self._note_failure)

    async def stop(self) -> None:
        """Ends the loops and frees the world."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        while not self._drawn.empty():
            self._drawn.get_nowait().decoding.cancel()
        await self.world.close()

    def attach(self, outlet: Outlet) -> Outlet | None:
        """Sends to `outlet` from now on; returns the one it replaces."""
        previous, self._outlet = self._outlet, outlet
        self.controls.release()
        self._attached.set()
        return previous

    def detach(self, outlet: Outlet) -> None:
        """Stands still if `outlet` is still the present one."""
        if self._outlet is outlet:
            self._outlet = None
            self._attached.clear()
            self.controls.release()

    @property
    def is_attached(self) -> bool:
        """Whether somebody plays."""
        return self._outlet is not None

    def instruct(self, text: str, instruction: Instruction) -> int:
        """Puts words in force with the next chunk; returns that chunk's number at the earliest."""
        self.instruction_text = text
        self._instruction = instruction
        return self.world.version

    async def say(self, message: dict[str, Any]) -> None:
        """Sends a JSON message to whoever plays."""
        if self._outlet:
            await self._outlet.send_message(message)

    async def _tell_recovering(self, recovering: bool) -> None:
        await self.say({"type": "status", "state": "recovering" if recovering else "playing"})

    def _note_failure(self, task: asyncio.Task[None]) -> None:
        """A loop that broke ends the session, where otherwise the picture would just stand still."""
        if not task.cancelled() and task.exception() and not self.failed:
            self.failed = "something failed on the server"
            logger.error("a session's loop failed", exc_info=task.exception())

    async def _draw(self) -> None:
        while True:
            await self._attached.wait()
            await self._wait_for_turn()
            memory, recoveries = self.world.latent, self.world.num_recoveries
            control, timestamp = self.controls.take(), self.controls.timestamp
            # Taken before the await: words that arrive while this chunk is drawn belong to the next.
            instruction, self._instruction = self._instruction, None
            start = time.monotonic()
            wait_ms = 0.0 if timestamp is None else 1000 * (start - self.controls.arrived_s)
            try:
                chunk = await self.world.step(control.operations(), instruction)
            except WorldLostError as error:
                self.failed = str(error)
                logger.error("session ended: %s", error)
                await self.say({"type": "error", "message": f"{error}: begin a new world", "fatal": True})
                return
            is_typical = memory is not None and recoveries == self.world.num_recoveries
            self.clock.stepped(time.monotonic() - start, is_typical)
            request = DecodeRequest(chunk.latent, memory, self._size)
            decoding = ChunkDecoding(self._decoder, request, self.clock)
            await self._drawn.put(_Drawn(chunk, timestamp, wait_ms, decoding))

    async def _wait_for_turn(self) -> None:
        while (delay_s := self.clock.step_delay_s()) > 0:
            await asyncio.sleep(delay_s)

    async def _show(self) -> None:
        while True:
            drawn = await self._drawn.get()
            turn: tuple[float, float] | None = None
            number = 0
            try:
                async for jpeg, decode_ms in drawn.decoding:
                    turn = turn or self.clock.show()
                    due_s = turn[0] + number * turn[1]
                    await asyncio.sleep(due_s - time.monotonic())
                    await self._send(self._header(drawn, number, decode_ms, due_s), jpeg)
                    number += 1
            except Exception:
                logger.exception("a chunk could not be decoded and is left out")
            if turn is None:
                self.clock.show()

    def _header(self, drawn: _Drawn, number: int, decode_ms: float, due_s: float) -> FrameHeader:
        chunk, sequence = drawn.chunk, self._sequence
        self._sequence += 1
        times_ms = chunk.step_ms, decode_ms, drawn.wait_ms, 1000 * due_s
        return FrameHeader(number, sequence, chunk.version - 1, drawn.timestamp, *times_ms)

    async def _send(self, header: FrameHeader, jpeg: bytes) -> None:
        if self._outlet and await self._outlet.send_frame(header, jpeg):
            self.frames_sent += 1
        else:
            self.frames_dropped += 1
