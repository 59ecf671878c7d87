"""Record of one player's stay: arrival time and header of each frame."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass, field, replace

import numpy as np

from deployments.stream.wire import (
    FRAGMENT_MAGIC,
    HEADER_BYTES,
    HEADER_DTYPE,
    INIT_MAGIC,
    frame_sequence,
    unpack_fragment,
    unpack_init,
)

FRAME_DTYPE = np.dtype([("at_s", "<f8"), ("num_bytes", "<u4"), ("socket", "<u2"), *HEADER_DTYPE.descr])
"""A received frame: time (`time.monotonic`), size of its message, number of the stay's socket, and header.

Of a fragment the first frame has the size, and the others come one after another as they are due.
"""
ANSWER_DTYPE = np.dtype([(name, "<f8") for name in ("taken_s", "wait_s", "step_s", "decode_s")])
_ARRIVAL = struct.Struct("<dIH")


def no_frames() -> np.ndarray:
    """An empty array of frames."""
    return np.empty(0, FRAME_DTYPE)


@dataclass(frozen=True, kw_only=True)
class PlayerStay:
    """One player's stay; times are seconds of `time.monotonic`.

    `pressed` has for each control's timestamp when it was sent. `lost` says why a session could not be continued.
    """

    frames: np.ndarray = field(default_factory=no_frames)
    pressed: dict[float, float] = field(default_factory=dict)
    joined_s: float = 0.0
    left_s: float = 0.0
    reconnects: int = 0
    migrations: int = 0
    queued: int = 0
    goodbyes: int = 0
    errors: int = 0
    lost: str | None = None

    def since(self, at_s: float) -> PlayerStay:
        """The stay without its frames and keys before a time."""
        frames = self.frames[self.frames["at_s"] >= at_s]
        pressed = {stamp: at for stamp, at in self.pressed.items() if at >= at_s}
        return replace(self, frames=frames, pressed=pressed)

    def gaps_s(self) -> np.ndarray:
        """Times between frames, in seconds."""
        return np.diff(self.frames["at_s"])

    @property
    def dropped(self) -> int:
        """Number of frames that the server made and this player never got."""
        steps = np.diff(self.frames["sequence"].astype(np.int64))
        return int(np.maximum(steps - 1, 0).sum())

    def answers(self) -> np.ndarray:
        """Latencies of the controls that a frame answered, from the first such frame and its header.

        `ANSWER_DTYPE`: the whole time since it was sent, and of it the wait for a chunk, the step and the decoding.
        """
        stamps, first = np.unique(self.frames["control_timestamp"], return_index=True)
        known = [i for stamp, i in zip(stamps.tolist(), first.tolist(), strict=True) if stamp in self.pressed]
        frames = self.frames[known]
        sent_s = np.array([self.pressed[stamp] for stamp in frames["control_timestamp"].tolist()])
        answers = np.empty(len(frames), ANSWER_DTYPE)
        answers["taken_s"] = frames["at_s"] - sent_s
        for stage in ("wait", "step", "decode"):
            answers[f"{stage}_s"] = frames[f"{stage}_ms"] / 1e3
        return answers


class FrameRecorder:
    """Records frames as they come: 54 bytes of each are kept, nothing is decoded."""

    def __init__(self) -> None:
        self.num_frames = 0
        self._rows = bytearray()
        self._init_bytes = 0

    def take(self, message: bytes, socket: int) -> int | None:
        """Records a message's frames; returns the last one's sequence, None for an init segment. Raises ValueError."""
        now_s = time.monotonic()
        if message.startswith(FRAGMENT_MAGIC):
            return self._take_fragment(message, socket, now_s)
        if message.startswith(INIT_MAGIC):
            unpack_init(message)
            # Counted with the fragment that follows.
            self._init_bytes += len(message)
            return None
        sequence = frame_sequence(message)
        self._note(_ARRIVAL.pack(now_s, len(message), socket) + message[:HEADER_BYTES])
        return sequence

    def _take_fragment(self, message: bytes, socket: int, now_s: float) -> int:
        headers, _ = unpack_fragment(message)
        num_bytes, self._init_bytes = len(message) + self._init_bytes, 0
        for header in headers:
            at_s = now_s + (header.due_ms - headers[0].due_ms) / 1e3
            self._note(_ARRIVAL.pack(at_s, num_bytes, socket) + header.pack())
            num_bytes = 0
        return headers[-1].sequence

    def _note(self, row: bytes) -> None:
        self._rows += row
        self.num_frames += 1

    def frames(self) -> np.ndarray:
        """All frames so far, `FRAME_DTYPE`."""
        return np.frombuffer(bytes(self._rows), FRAME_DTYPE)
