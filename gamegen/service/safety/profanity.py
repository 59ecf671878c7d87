"""Checker of abusive language, by the linear model of the package alt-profanity-check (English)."""

from __future__ import annotations

from gamegen.service.safety.readings import readings
from gamegen.service.safety.settings import SafetySettings, check_text
from gamegen.service.safety.verdict import SafetyVerdict


class ProfanityChecker:
    """Scores a text from 0 to 1, the highest of its readings.

    The model knows words without context: an ass that pulls a cart scores nearly as high as an insult. Refuse only
    scores close to 1, and leave the rest to the blocklist.
    """

    name = "profanity"

    def __init__(self, settings: SafetySettings) -> None:
        # Takes a second or two: it imports scikit-learn.
        from profanity_check import predict_prob

        self._predict, self._threshold = predict_prob, settings.profanity_threshold

    def check(self, subject: str, text: str) -> SafetyVerdict:
        """Refuses at or above the threshold; raises ValueError as `check_text`."""
        check_text(subject, text)
        score = float(max(self._predict(list(readings(text)))))
        is_allowed = score < self._threshold
        reason = None if is_allowed else "abusive language"
        return SafetyVerdict(subject, self.name, score, self._threshold, is_allowed, reason)
