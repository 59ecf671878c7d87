"""A player who does not give up."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Sequence

import numpy as np
import websockets

from tests.serving import PATIENCE_S, Frame, streaming


class Player:
    """Comes back with the token as often as the socket closes, and keeps every frame by its number.

    It takes turns with the addresses; each of them leads to its session.
    """

    def __init__(
        self, addresses: Sequence[str], session: dict, directly: bool = False, fps: int | None = None
    ) -> None:
        self.addresses, self.session, self.directly = itertools.cycle(addresses), session, directly
        self.fps = fps
        self.frames: dict[int, Frame] = {}
        self.closed: list[int] = []
        self.kinds: set[str] = set()

    async def until(self, num_frames: int) -> None:
        """Plays until so many frames came."""
        async for _ in self.play():
            if len(self.frames) >= num_frames:
                return

    async def play(self) -> AsyncIterator[Frame]:
        """Frames, as long as they are wanted."""
        give_up_at = time.monotonic() + PATIENCE_S
        while time.monotonic() < give_up_at:
            try:
                directly, self.directly = self.directly, False
                async with streaming(next(self.addresses), self.session, directly=directly) as client:
                    try:
                        if self.fps:
                            await client.send({"type": "settings", "fps": self.fps})
                        while True:
                            frame = await client.frame()
                            give_up_at = time.monotonic() + PATIENCE_S
                            self.frames[frame.header.sequence] = frame
                            yield frame
                    finally:
                        self.kinds |= {message["type"] for message in client.messages}
            except websockets.ConnectionClosed as closed:
                self.closed.append(closed.rcvd.code if closed.rcvd else 1006)
            # While no replica is there the proxy refuses the socket.
            except (OSError, websockets.InvalidHandshake):
                await asyncio.sleep(0.2)
        raise AssertionError(
            f"no frames any more after {len(self.frames)}; the socket closed with {self.closed}"
        )

    def pixels(self) -> dict[int, np.ndarray]:
        return {number: frame.pixels for number, frame in self.frames.items()}
