"""Rate limits of one ingress replica.

Each limit counts in fixed windows of one second and in this process alone. Two bursts around the end of a window may
together be twice the limit, and a client that is connected to several ingress replicas has the limit at each of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

from deployments.errors import ApiError
from deployments.settings import IngressSettings
from gamegen.sessions.log import LoggedInstruction

INSTRUCTION_OVERHEAD_BYTES = 64
"""Bytes that the log keeps of an instruction besides its text."""
_WINDOW_S = 1.0


class FixedWindowLimiter:
    """Fixed-window rate limit: at most `max_per_s` events a window, which begins with its first event."""

    def __init__(self, max_per_s: int) -> None:
        self._max_per_s = max_per_s
        self._window_start_s = -math.inf
        self._count = 0

    def allow(self) -> bool:
        """Counts an event; false if the window has more than `max_per_s`."""
        now = time.monotonic()
        if now - self._window_start_s >= _WINDOW_S:
            self._window_start_s, self._count = now, 0
        self._count += 1
        return self._count <= self._max_per_s


class InstructionLimiter:
    """Limits on the instructions of one session: their rate, and the bytes of all that its log keeps."""

    def __init__(self, settings: IngressSettings, logged: Sequence[LoggedInstruction]) -> None:
        self._settings = settings
        self._rate = FixedWindowLimiter(settings.max_instructions_per_s)
        self._num_bytes = sum(_logged_bytes(words.text) for words in logged)

    def check(self, text: str) -> None:
        """Raises ApiError for an instruction that comes too soon (429) or that the log has no room for (422)."""
        limit = self._settings.max_instructions_per_s
        if not self._rate.allow():
            message = f"more than {limit} instructions a second: send these words again in a second"
            raise ApiError(429, "too_many_instructions", message, retry_after_s=1)
        room = self._settings.max_logged_words_bytes
        if self._num_bytes + _logged_bytes(text) > room:
            message = (
                f"the words of this session have {self._num_bytes} bytes, these {_logged_bytes(text)}, and the limit "
                f"is {room}: play on without new ones, or begin another session or a branch from an earlier chunk"
            )
            raise ApiError(422, "too_many_words", message)

    def record(self, text: str) -> None:
        """Counts the bytes of an instruction that is logged."""
        self._num_bytes += _logged_bytes(text)


def _logged_bytes(text: str) -> int:
    return len(text.encode()) + INSTRUCTION_OVERHEAD_BYTES
