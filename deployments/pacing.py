"""When to draw and when to show: even motion at 24 fps, or as near as the model comes, with little delay."""

from __future__ import annotations

import time
from dataclasses import dataclass

from gamegen.controls import FPS, FRAMES_PER_CHUNK

_SMOOTHING = 0.2
_SPREADS = 3.0
"""Mean deviations of a chunk's time that are waited for; nine of ten chunks are in time then, and the page evens
out the rest."""
_LEAST_MARGIN_S, _MOST_MARGIN_S = 0.006, 0.06
_LONGEST_SAMPLE_S = 2.0


@dataclass
class ChunkClock:
    """Times of one session's chunks.

    Frames are shown at 24 fps. Where drawing a chunk takes longer than showing it, its frames are spread over
    the measured time of a chunk instead, so that motion stays even. A chunk is begun as late as it can be to
    arrive in time: what the player does until then is still in it. `spread_s` is how far the times of chunks are from
    their means.
    """

    step_s: float = 0.0
    decode_s: float = 0.0
    spread_s: float = 0.02 / _SPREADS
    shown_until_s: float = 0.0
    num_unshown: int = 0

    @property
    def frame_interval_s(self) -> float:
        """Time between two frames."""
        return max(1 / FPS, max(self.step_s, self.decode_s) / FRAMES_PER_CHUNK)

    @property
    def fps(self) -> float:
        """Frames a second at this pace."""
        return 1 / self.frame_interval_s

    def step_delay_s(self) -> float:
        """How long to wait before the next chunk is begun."""
        now = time.monotonic()
        chunk_s = FRAMES_PER_CHUNK * self.frame_interval_s
        needed_at = max(self.shown_until_s, now) + self.num_unshown * chunk_s
        return max(0.0, needed_at - self.step_s - self.decode_s - self.margin_s - now)

    @property
    def margin_s(self) -> float:
        """How much earlier than its mean time asks a chunk is begun."""
        return min(_MOST_MARGIN_S, max(_LEAST_MARGIN_S, _SPREADS * self.spread_s))

    def stepped(self, duration_s: float, is_typical: bool) -> None:
        """A chunk was drawn; the first of a world and one after a loss are not typical."""
        self.num_unshown += 1
        if is_typical:
            self._deviated(self.step_s, duration_s)
            self.step_s = _smooth(self.step_s, duration_s)

    def decoded(self, duration_s: float) -> None:
        """A chunk was decoded."""
        self._deviated(self.decode_s, duration_s)
        self.decode_s = _smooth(self.decode_s, duration_s)

    def show(self) -> float:
        """A chunk begins to be shown: returns when, by `time.monotonic`."""
        self.num_unshown -= 1
        start = max(time.monotonic(), self.shown_until_s)
        self.shown_until_s = start + FRAMES_PER_CHUNK * self.frame_interval_s
        return start

    def _deviated(self, mean_s: float, duration_s: float) -> None:
        if mean_s:
            # Steps and decoders come by in turns: the mean of both, twice, is that of a whole chunk.
            deviation_s = 2 * min(abs(duration_s - mean_s), _LONGEST_SAMPLE_S)
            self.spread_s += _SMOOTHING / 4 * (deviation_s - self.spread_s)


def _smooth(old: float, new: float) -> float:
    new = min(new, _LONGEST_SAMPLE_S)
    return new if old == 0 else old + _SMOOTHING * (new - old)
