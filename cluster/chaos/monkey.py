"""Kills parts of a running application at moments that a seed chooses."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.chaos.local_application import Kind, LocalApplication

_EARLIEST, _LATEST = 0.02, 0.75
"""Shares of all orders that have ended at the first and at the last kill."""
_WATCH_INTERVAL_S = 0.05
_LONGEST_WAIT_S = 0.5
"""Longest random delay of a kill after the order that it waited for."""


@dataclass(frozen=True)
class Kill:
    """A kill, `at_s` seconds after the beginning."""

    kind: Kind
    at_s: float


class Monkey:
    """Kills each of `kinds` `times` times while orders end; `share_ended` returns the share of ended orders."""

    def __init__(
        self,
        scene: LocalApplication,
        kinds: Sequence[Kind],
        times: int,
        seed: int,
        share_ended: Callable[[], float],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._scene = scene
        self._say = say
        self._share_ended = share_ended
        self._chance = random.Random(seed)
        order = [*kinds] * times
        self._chance.shuffle(order)
        moments = sorted(self._chance.uniform(_EARLIEST, _LATEST) for _ in order)
        self._plan = list(zip(moments, order, strict=True))
        self._num_done = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.kills: list[Kill] = []
        self.errors: list[str] = []
        """Errors of kills that failed."""

    def __enter__(self) -> Monkey:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def is_behind(self) -> bool:
        """True if a kill is due: orders placed meanwhile might end before it."""
        left = self._plan[self._num_done :]
        return self._thread.is_alive() and bool(left) and left[0][0] <= self._share_ended()

    def _run(self) -> None:
        began_s = time.monotonic()
        for moment, kind in self._plan:
            while self._share_ended() < moment:
                if self._stop.wait(_WATCH_INTERVAL_S):
                    return
            if self._stop.wait(self._chance.uniform(0, _LONGEST_WAIT_S)):
                return
            self._say(f"{len(self.kills) + 1} of {len(self._plan)}: {kind} is killed")
            try:
                at_s = time.monotonic() - began_s
                self._scene.kill(kind, self._chance)
                self.kills.append(Kill(kind, at_s))
            # Told with the figures; what is there is played with.
            except Exception as error:
                self.errors.append(f"{kind}: {error}")
            self._num_done += 1
