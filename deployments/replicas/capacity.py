"""Capacity of a world replica: the number of sessions whose chunks it draws in time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping

_WINDOW_S = 8.0
"""Length of the window over which lateness is measured."""
_SETTLING_S = 3.0
"""First seconds of a session on a replica, in which it fills its caches and finds its pace; they do not count."""
_RECOVERY_S = 6.0
"""Seconds after a world was rebuilt here that do not count: it held up the others, whose paces average over 4 s."""
_BETWEEN_RECOVERIES_S = 30.0
"""Least time between two such pauses: worlds that are rebuilt all the time are load like any other."""
_INITIAL_CAPACITY = 8
"""Sessions that are offered before anything is measured."""
_STEP_S = 3.0
"""Least time between two changes of the capacity, in which new players arrive and are measured."""
_PROBE_S = 300.0
"""After so long a limit that nobody reaches is raised nevertheless: the machine may be free again."""


class LatenessTracker:
    """Measures the share of chunks that were shown late in the last seconds, as ingresses report it.

    Each session has the same weight, however many chunks it asks for. The session with the largest share is left out
    if there are several: its own connection may be slow. So are a session's first seconds, and those after a rebuild.
    """

    def __init__(self) -> None:
        self._reports: deque[tuple[float, str, bool]] = deque()
        self._seen_s: dict[str, tuple[float, float]] = {}
        self._recovery_s = -math.inf
        self._ignored_until_s = -math.inf

    def report(self, was_late: Mapping[str, bool]) -> None:
        """Records of each session that steps now whether its previous chunk was late."""
        now = time.monotonic()
        seen_s = {sid: times for sid, times in self._seen_s.items() if now - times[1] < _WINDOW_S}
        seen_s |= {sid: (seen_s.get(sid, (now, now))[0], now) for sid in was_late}
        self._seen_s = seen_s
        while self._reports and now - self._reports[0][0] > _WINDOW_S:
            self._reports.popleft()
        if now - self._recovery_s < _RECOVERY_S:
            return
        settled = [sid for sid in was_late if now - seen_s[sid][0] >= _SETTLING_S]
        self._reports.extend((now, sid, was_late[sid]) for sid in settled)

    def note_recovery(self) -> None:
        """Records that a world is rebuilt here, which takes the time of the others."""
        now = time.monotonic()
        if now - self._recovery_s > _BETWEEN_RECOVERIES_S:
            self._recovery_s = now

    def reset(self) -> None:
        """Ignores all reports until now, after the capacity was lowered because of them."""
        self._ignored_until_s = time.monotonic()

    def share(self) -> float:
        """Share of late chunks in [0, 1]; 0 without reports."""
        oldest_s = max(self._ignored_until_s, time.monotonic() - _WINDOW_S)
        # Copied at once: reports come in another thread.
        reports = [(sid, was_late) for at_s, sid, was_late in [*self._reports] if at_s > oldest_s]
        shares = sorted(_session_shares(reports))
        counted = shares[:-1] if len(shares) > 1 else shares
        return sum(counted) / len(counted) if counted else 0.0


def _session_shares(reports: Iterable[tuple[str, bool]]) -> Iterable[float]:
    """Share of late chunks of each session."""
    by_session: dict[str, list[bool]] = {}
    for sid, was_late in reports:
        by_session.setdefault(sid, []).append(was_late)
    return (sum(late) / len(late) for late in by_session.values())


class CapacityLimiter:
    """Finds the number of sessions a world replica can offer, as TCP finds the bandwidth of a link.

    It starts with a few. While chunks are in time and the offer is used up, the offer is doubled, up to the slots. Once
    more than `most_late_share` of the chunks are late, the offer falls below the number of players, none of whom has
    to go, and from then on rises by a sixteenth. With `most_late_share` 1 all slots are offered always.
    """

    def __init__(self, slots: int, most_late_share: float) -> None:
        self._slots = slots
        self._most_late_share = most_late_share
        self._is_limited = most_late_share < 1
        self._met_limit = False
        self._changed_s = time.monotonic()
        self._late_s = self._changed_s
        self.offered = min(slots, _INITIAL_CAPACITY) if self._is_limited else slots

    @property
    def carried(self) -> int:
        """Number of sessions that this replica can draw in time, as far as is known."""
        return self.offered if self._met_limit else self._slots

    def review(self, lateness: LatenessTracker, num_active: int) -> int:
        """Adapts the offer to the lateness of `num_active` players and returns it; called about once a second."""
        if not self._is_limited:
            return self.offered
        now, late_share = time.monotonic(), lateness.share()
        since_s = now - self._changed_s
        # A share between half the limit and the limit changes nothing.
        if late_share > self._most_late_share / 2:
            self._late_s = now
        if late_share > self._most_late_share:
            if since_s >= _STEP_S and num_active:
                lateness.reset()
                self._lower(num_active)
        elif now - self._late_s >= _STEP_S:
            is_full = num_active >= self.offered
            if since_s >= (_STEP_S if is_full else _PROBE_S):
                self._raise(num_active)
        return self.offered

    def _lower(self, num_active: int) -> None:
        used = min(self.offered, num_active)
        fewer = max(used - max(1, used // 10), num_active // 2, 1)
        self._met_limit = True
        self._offer(min(self.offered, fewer))

    def _raise(self, num_active: int) -> None:
        # So many are in time already, those included who came from a replica that was lost.
        carried = max(self.offered, num_active)
        more = max(1, carried // 16) if self._met_limit else carried
        self._offer(min(self._slots, carried + more))
        self._met_limit = self._met_limit and self.offered < self._slots

    def _offer(self, num_sessions: int) -> None:
        self.offered = num_sessions
        self._changed_s = time.monotonic()
