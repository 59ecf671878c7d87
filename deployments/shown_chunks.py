"""What one socket shows, gathered frame by frame and told to Prometheus chunk by chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass

from deployments import metrics
from deployments.pacing import ChunkClock
from gamegen.controls import FPS, FRAMES_PER_CHUNK

LATE_S = 1 / FPS
"""A chunk whose first frame is sent later than this after it was due is late."""
STALL_S = 0.25
"""By so much is late what a player notices as a stop."""


@dataclass(frozen=True)
class ChunkTimes:
    """When a chunk was begun and drawn, and the newest control in it had arrived, by `time.monotonic`."""

    arrived_s: float | None
    begun_s: float
    drawn_s: float

    @property
    def wait_ms(self) -> float:
        """How long the control waited for the chunk to begin."""
        return 0.0 if self.arrived_s is None else 1000 * (self.begun_s - self.arrived_s)


@dataclass
class _Frames:
    first_turn_s: float | None = None
    first_sent_s: float | None = None
    longest_gap_s: float = 0.0
    num_sent: int = 0
    num_dropped: int = 0
    num_bytes: int = 0


class ShownChunks:
    """Gathers what happens to frames, and records it once a chunk."""

    def __init__(self, clock: ChunkClock) -> None:
        self._clock = clock
        self._frames = _Frames()
        self._is_first = True
        self._answered_s: float | None = None
        self._last_sent_s: float | None = None

    def frames(self, num_bytes: int | None, num_frames: int = 1, interval_s: float = 0.0) -> None:
        """A file had its turn: so many bytes of it were sent; 0 if it was dropped, None if it was not asked for.

        Frames that came together are shown one after another, `interval_s` apart, and counted as if sent so.
        """
        frames, now = self._frames, time.monotonic()
        frames.first_turn_s = frames.first_turn_s or now
        frames.num_dropped += num_frames * (num_bytes == 0)
        if not num_bytes:
            return
        if self._last_sent_s is not None:
            frames.longest_gap_s = max(frames.longest_gap_s, now - self._last_sent_s)
        if num_frames > 1:
            frames.longest_gap_s = max(frames.longest_gap_s, interval_s)
        frames.first_sent_s = frames.first_sent_s or now
        frames.num_sent += num_frames
        frames.num_bytes += num_bytes
        self._last_sent_s = now + (num_frames - 1) * interval_s

    def chunk(self, interval_s: float, times: ChunkTimes, decoded_s: float | None) -> None:
        """The chunk's frames had their turn, one each `interval_s`; its first was decoded at `decoded_s`, or never."""
        frames, self._frames = self._frames, _Frames()
        metrics.CHUNKS_SHOWN.add()
        if frames.first_turn_s is None:
            metrics.CHUNKS_LATE.add()
        else:
            late_s = frames.first_turn_s - self._clock.due_s
            metrics.CHUNKS_LATE.add(late_s > LATE_S)
            metrics.STALLS.add(late_s > STALL_S)
        slower_s = FRAMES_PER_CHUNK * (interval_s - 1 / self._clock.target_fps)
        metrics.CHUNKS_OFF_PACE.add(slower_s > LATE_S)
        metrics.FRAMES_SENT.add(frames.num_sent)
        metrics.FRAMES_DROPPED.add(frames.num_dropped)
        metrics.FRAME_BYTES.add(frames.num_bytes)
        if frames.longest_gap_s:
            metrics.FRAME_GAP.observe(frames.longest_gap_s)
        self._answer(times, decoded_s, frames.first_sent_s)
        self._is_first = False

    def _answer(self, times: ChunkTimes, decoded_s: float | None, sent_s: float | None) -> None:
        """Records how long a new control took; one that was there before the first chunk waited for the world."""
        arrived_s = times.arrived_s
        # Until another comes the last control stays in force.
        if arrived_s is None or arrived_s == self._answered_s or sent_s is None or decoded_s is None:
            return
        self._answered_s = arrived_s
        if self._is_first:
            return
        metrics.CONTROL_LATENCY.observe(sent_s - arrived_s)
        metrics.CONTROL_STAGE.observe(times.begun_s - arrived_s, tag="wait")
        metrics.CONTROL_STAGE.observe(times.drawn_s - times.begun_s, tag="step")
        metrics.CONTROL_STAGE.observe(decoded_s - times.drawn_s, tag="decode")
        metrics.CONTROL_STAGE.observe(sent_s - decoded_s, tag="send")
