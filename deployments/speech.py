"""How often a player may say something, and how much of it a session's log takes."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.connection import Allowance
from deployments.errors import ApiError
from deployments.settings import IngressSettings
from gamegen.session_log import Spoken

ENTRY_BYTES = 64
"""What the log keeps of words besides their text."""


class Speech:
    """The words of one session, those in its log to begin with."""

    def __init__(self, settings: IngressSettings, logged: Sequence[Spoken]) -> None:
        self._settings = settings
        self._may_speak = Allowance(settings.max_instructions_per_s)
        self._num_bytes = sum(_bytes(words.text) for words in logged)

    def check(self, text: str) -> None:
        """Raises ApiError for words that come too soon (429) or that the log has no room for (422)."""
        limit = self._settings.max_instructions_per_s
        if not self._may_speak.is_within():
            message = f"more than {limit} instructions a second: send these words again in a second"
            raise ApiError(429, "too_many_instructions", message, retry_after_s=1)
        room = self._settings.max_logged_words_bytes
        if self._num_bytes + _bytes(text) > room:
            message = (
                f"the words of this session have {self._num_bytes} bytes, these {_bytes(text)}, and the limit is "
                f"{room}: play on without new ones, or begin another session or a branch from an earlier chunk"
            )
            raise ApiError(422, "too_many_words", message)

    def said(self, text: str) -> None:
        """These words are logged."""
        self._num_bytes += _bytes(text)


def _bytes(text: str) -> int:
    return len(text.encode()) + ENTRY_BYTES
