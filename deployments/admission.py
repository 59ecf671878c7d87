"""How many players a world replica takes: as many as get their chunks in time."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterable, Mapping

_WINDOW_S = 8.0
"""Over which lateness is told."""
_SETTLING_S = 3.0
"""In which a session that just came here fills its caches and finds its pace."""
_RECOVERY_S = 6.0
"""In which worlds that are brought back hold everybody up, and paces, told over four seconds, forget it."""
_BETWEEN_RECOVERIES_S = 30.0
"""Worlds that are brought back all the time are load like any other."""
_AT_ONCE = 8
"""Players who are let in before anything is known of how many can be."""
_STEP_S = 3.0
"""Between two changes of what is offered: players come, and are in time or not."""
_FORGOTTEN_S = 300.0
"""After so long a limit that nobody reaches is raised all the same: the machine may be free again."""


class Lateness:
    """The share of chunks that came late over the last seconds, as those who show them tell.

    Each session counts for the same, however many chunks it asks for. The latest of several does not count: its own
    line may be what is slow. Nor do the first seconds of a session, and the first after worlds had to be brought back.
    """

    def __init__(self) -> None:
        self._told: deque[tuple[float, str, bool]] = deque()
        self._here_s: dict[str, tuple[float, float]] = {}
        self._recovery_s = self._before_s = -math.inf

    def tell(self, was_late: Mapping[str, bool]) -> None:
        """Sessions step: whether the chunk before was late, of each."""
        now = time.monotonic()
        here_s = {sid: times for sid, times in self._here_s.items() if now - times[1] < _WINDOW_S}
        here_s |= {sid: (here_s.get(sid, (now, now))[0], now) for sid in was_late}
        self._here_s = here_s
        while self._told and now - self._told[0][0] > _WINDOW_S:
            self._told.popleft()
        if now - self._recovery_s < _RECOVERY_S:
            return
        settled = [sid for sid in was_late if now - here_s[sid][0] >= _SETTLING_S]
        self._told.extend((now, sid, was_late[sid]) for sid in settled)

    def recovering(self) -> None:
        """A world is brought back, which takes the time of others."""
        now = time.monotonic()
        if now - self._recovery_s > _BETWEEN_RECOVERIES_S:
            self._recovery_s = now

    def forget(self) -> None:
        """What was told so far counts no more, since something is done about it."""
        self._before_s = time.monotonic()

    def share(self) -> float:
        """From 0, also where nothing is known, to 1."""
        oldest_s = max(self._before_s, time.monotonic() - _WINDOW_S)
        # Copied at once: steps are told in another thread.
        told = [(sid, was_late) for at_s, sid, was_late in [*self._told] if at_s > oldest_s]
        shares = sorted(_shares(told))
        counted = shares[:-1] if len(shares) > 1 else shares
        return sum(counted) / len(counted) if counted else 0.0


def _shares(told: Iterable[tuple[str, bool]]) -> Iterable[float]:
    by_session: dict[str, list[bool]] = {}
    for sid, was_late in told:
        by_session.setdefault(sid, []).append(was_late)
    return (sum(late) / len(late) for late in by_session.values())


class OfferedPlaces:
    """How many sessions a world replica offers to hold, found out as TCP finds out what a line carries.

    It begins with a few. While chunks come in time and every place is taken, places are doubled, up to the slots; from
    the first time on that more than `most_late_share` of the chunks are late they become fewer than those who play,
    nobody of whom has to go, and later one more at a time. With `most_late_share` 1 all slots are offered whatever
    happens.
    """

    def __init__(self, slots: int, most_late_share: float) -> None:
        self._slots = slots
        self._most_late_share = most_late_share
        self._is_limited = most_late_share < 1
        self._met_limit = False
        self._changed_s = self._late_s = time.monotonic()
        self.offered = min(slots, _AT_ONCE) if self._is_limited else slots

    @property
    def carried(self) -> int:
        """How many sessions this replica can draw in time, as far as is known."""
        return self.offered if self._met_limit else self._slots

    def review(self, lateness: Lateness, num_active: int) -> int:
        """What to offer from now on, while so many play; asked every second or so."""
        if not self._is_limited:
            return self.offered
        now, late_share = time.monotonic(), lateness.share()
        since_s = now - self._changed_s
        # What is neither late nor well in time changes nothing.
        if late_share > self._most_late_share / 2:
            self._late_s = now
        if late_share > self._most_late_share:
            if since_s >= _STEP_S and num_active:
                lateness.forget()
                self._lower(num_active)
        elif now - self._late_s >= _STEP_S:
            is_full = num_active >= self.offered
            if since_s >= (_STEP_S if is_full else _FORGOTTEN_S):
                self._raise(num_active)
        return self.offered

    def _lower(self, num_active: int) -> None:
        crowd = min(self.offered, num_active)
        fewer = max(crowd - max(1, crowd // 10), num_active // 2, 1)
        self._met_limit = True
        self._offer(min(self.offered, fewer))

    def _raise(self, num_active: int) -> None:
        # So many are in time already, those included who came from a replica that was lost.
        carried = max(self.offered, num_active)
        more = max(1, carried // 16) if self._met_limit else carried
        self._offer(min(self._slots, carried + more))
        self._met_limit = self._met_limit and self.offered < self._slots

    def _offer(self, places: int) -> None:
        self.offered, self._changed_s = places, time.monotonic()
