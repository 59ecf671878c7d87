"""Statistics of the chunks that one socket shows: gathered frame by frame, recorded as metrics chunk by chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass

from deployments.observability import play_metrics
from deployments.stream.pacing import ChunkClock
from gamegen.constants import FPS, FRAMES_PER_CHUNK

LATE_S = 1 / FPS
"""Lateness of a chunk's first frame above which the chunk counts as late."""
STALL_S = 0.25
"""Lateness above which a player notices a stop."""


@dataclass(frozen=True)
class ChunkTimes:
    """Times at which a chunk's newest control arrived, and at which it was begun and drawn, by `time.monotonic`."""

    arrived_s: float | None
    begun_s: float
    drawn_s: float

    @property
    def wait_ms(self) -> float:
        """Milliseconds that the control waited for the chunk to begin."""
        return 0.0 if self.arrived_s is None else 1000 * (self.begun_s - self.arrived_s)


@dataclass(kw_only=True)
class _Frames:
    first_turn_s: float | None = None
    first_sent_s: float | None = None
    longest_gap_s: float = 0.0
    num_sent: int = 0
    num_dropped: int = 0
    num_bytes: int = 0


class ChunkStats:
    """Counts frames sent and dropped, gaps and latencies of one socket, and records them once a chunk."""

    def __init__(self, clock: ChunkClock) -> None:
        self._clock = clock
        self._frames = _Frames()
        self._is_first = True
        self._answered_s: float | None = None
        self._last_sent_s: float | None = None

    def add_file(self, num_bytes: int | None, num_frames: int = 1, interval_s: float = 0.0) -> None:
        """Counts a file of `num_frames` frames: its bytes sent, 0 if it was dropped, None if it was not asked for.

        Frames of one file are shown one after another, `interval_s` apart, and counted as if they were sent so.
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

    def finish_chunk(self, interval_s: float, times: ChunkTimes, decoded_s: float | None) -> None:
        """Records a chunk that was shown, a frame each `interval_s`; its first was decoded at `decoded_s`, or never."""
        frames, self._frames = self._frames, _Frames()
        play_metrics.CHUNKS_SHOWN.add()
        if frames.first_turn_s is None:
            play_metrics.CHUNKS_LATE.add()
        else:
            late_s = frames.first_turn_s - self._clock.due_s
            play_metrics.CHUNKS_LATE.add(late_s > LATE_S)
            play_metrics.STALLS.add(late_s > STALL_S)
        slower_s = FRAMES_PER_CHUNK * (interval_s - 1 / self._clock.target_fps)
        play_metrics.CHUNKS_OFF_PACE.add(slower_s > LATE_S)
        play_metrics.FRAMES_SENT.add(frames.num_sent)
        play_metrics.FRAMES_DROPPED.add(frames.num_dropped)
        play_metrics.FRAME_BYTES.add(frames.num_bytes)
        if frames.longest_gap_s:
            play_metrics.FRAME_GAP.observe(frames.longest_gap_s)
        self._record_latency(times, decoded_s, frames.first_sent_s)
        self._is_first = False

    def _record_latency(self, times: ChunkTimes, decoded_s: float | None, sent_s: float | None) -> None:
        """Records the latency of a new control, unless it came before the first chunk and waited for the world."""
        arrived_s = times.arrived_s
        # The last control stays in force until another comes: it is answered once.
        if arrived_s is None or arrived_s == self._answered_s or sent_s is None or decoded_s is None:
            return
        self._answered_s = arrived_s
        if self._is_first:
            return
        play_metrics.CONTROL_LATENCY.observe(sent_s - arrived_s)
        play_metrics.CONTROL_STAGE.observe(times.begun_s - arrived_s, tag="wait")
        play_metrics.CONTROL_STAGE.observe(times.drawn_s - times.begun_s, tag="step")
        play_metrics.CONTROL_STAGE.observe(decoded_s - times.drawn_s, tag="decode")
        play_metrics.CONTROL_STAGE.observe(sent_s - decoded_s, tag="send")
