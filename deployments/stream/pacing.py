"""Pacing of one session's chunks: even motion at 24 fps, or as near as the model comes, with little delay."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from gamegen.constants import FPS, FRAMES_PER_CHUNK

_WINDOW = 24
"""Chunks whose times are remembered: four seconds of play."""
_IN_TIME = 0.5
"""Share of chunks that a chunk's lead covers: the page's own delay evens out the later ones."""
_ON_SCHEDULE_S = 1 / FPS
"""Lateness up to which a chunk does not move the frames after it."""
_CATCHING_UP = 0.04
"""Share by which frames are shown faster after a late chunk until its delay is made up for: too little to see."""
_IN_PACE = 0.98
"""Share of the requested frame rate from which on a session counts as on pace."""
_FORGOTTEN_S = 0.5
"""Delay above which nothing is made up for: the game stood still."""
_LONGEST_SAMPLE_S = 2.0


def _times() -> deque[float]:
    return deque(maxlen=_WINDOW)


@dataclass
class ChunkClock:
    """Clock of one session's chunks.

    Frames are shown at `target_fps`. Where drawing a chunk takes longer than showing it, its frames are spread over
    the measured time of a chunk instead, so that motion stays even. A chunk is begun as late as it can be to
    arrive in time, as the usual one does: what the player does until then is still in it. `due_s` is when the chunk
    shown last was due by the pace of those before. `leads_s` are the times that chunks took from their beginning
    until they could be shown.
    """

    steps_s: deque[float] = field(default_factory=_times)
    decodes_s: deque[float] = field(default_factory=_times)
    leads_s: deque[float] = field(default_factory=_times)
    target_fps: float = FPS
    shown_until_s: float = 0.0
    shown_interval_s: float = 0.0
    due_s: float = 0.0
    behind_s: float = 0.0
    late_s: float = 0.0
    num_unshown: int = 0

    @property
    def frame_interval_s(self) -> float:
        """Seconds between two frames."""
        slowest_s = max(_quantile(self.steps_s, 0.5), _quantile(self.decodes_s, 0.5))
        return max(1 / self.target_fps, slowest_s / FRAMES_PER_CHUNK)

    @property
    def fps(self) -> float:
        """Frames a second at this pace."""
        return 1 / self.frame_interval_s

    @property
    def is_late(self) -> bool:
        """True if the last chunk was shown over a frame late, or below the requested frame rate."""
        return self.late_s > 1 / FPS or self.shown_interval_s * self.target_fps > 1 / _IN_PACE

    @property
    def lead_s(self) -> float:
        """Seconds by which a chunk is begun before its first frame is due."""
        return _quantile(self.leads_s, _IN_TIME)

    def step_delay_s(self) -> float:
        """Seconds to wait before the next chunk is begun; 0 until one has been timed."""
        if not self.leads_s:
            return 0.0
        now = time.monotonic()
        chunk_s = FRAMES_PER_CHUNK * self.frame_interval_s
        needed_at = max(self.shown_until_s, now) + self.num_unshown * chunk_s
        return max(0.0, needed_at - self.lead_s - now)

    def stepped(self, duration_s: float, is_typical: bool) -> None:
        """Notes a drawn chunk; the first of a world and the first after a rebuild are not typical."""
        self.num_unshown += 1
        if is_typical:
            self.steps_s.append(min(duration_s, _LONGEST_SAMPLE_S))

    def decoded(
        self, begun_s: float, asked_s: float, came_s: Sequence[float], is_typical: bool = True
    ) -> None:
        """Notes a decoded chunk: the times at which it was begun, its decoding was asked for, and each frame came.

        A later frame may come later by as much as it is shown later.
        """
        self.decodes_s.append(min(came_s[-1] - asked_s, _LONGEST_SAMPLE_S))
        if is_typical:
            lead_s = max(at - i / FPS for i, at in enumerate(came_s)) - begun_s
            self.leads_s.append(min(lead_s, _LONGEST_SAMPLE_S))

    def show(self) -> tuple[float, float]:
        """Starts to show a chunk: returns when, by `time.monotonic`, and the seconds between its frames.

        For a chunk that is a little late the start lies in the past.
        """
        self.num_unshown -= 1
        now, interval_s = time.monotonic(), self.frame_interval_s
        self.shown_interval_s = interval_s
        self.due_s = self.shown_until_s or now
        self.late_s = max(0.0, now - self.due_s)
        lost_s = self.late_s if self.late_s > _ON_SCHEDULE_S else 0.0
        self.behind_s = self.behind_s + lost_s if lost_s < _FORGOTTEN_S else 0.0
        gain_s = min(_CATCHING_UP * interval_s, self.behind_s / FRAMES_PER_CHUNK)
        self.behind_s -= FRAMES_PER_CHUNK * gain_s
        start = self.due_s + lost_s
        self.shown_until_s = start + FRAMES_PER_CHUNK * (interval_s - gain_s)
        return start, interval_s - gain_s

    def facts(self) -> dict[str, float]:
        """Frames a second, and in milliseconds the median step and decoding and the lead, for the status page."""
        times_s = {
            "step_ms": _quantile(self.steps_s, 0.5),
            "decode_ms": _quantile(self.decodes_s, 0.5),
            "lead_ms": self.lead_s,
        }
        return {"fps": round(self.fps, 1), **{name: round(1000 * t, 1) for name, t in times_s.items()}}


def _quantile(times_s: Sequence[float], share: float) -> float:
    """Quantile with linear interpolation; `numpy.quantile` takes twenty times as long for so few values."""
    if not times_s:
        return 0.0
    ordered = sorted(times_s)
    below, part = divmod(share * (len(ordered) - 1), 1)
    low, high = ordered[int(below)], ordered[min(int(below) + 1, len(ordered) - 1)]
    return low + part * (high - low)
