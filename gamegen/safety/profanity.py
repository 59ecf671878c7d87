"""Abusive language, by a small linear model of English that comes with a package (alt-profanity-check)."""

from __future__ import annotations

from gamegen.safety.readings import readings
from gamegen.safety.settings import SafetySettings, check_text
from gamegen.videos.records import Verdict


class ProfanityChecker:
    """Scores a text from 0 to 1, the worst of its readings.

    The model knows words and not what they are about: an ass that pulls a cart scores nearly as an insult does. Refuse
    what is close to 1 and leave the rest to the blocklist.
    """

    name = "profanity"

    def __init__(self, settings: SafetySettings) -> None:
        # Takes a second or two: scikit-learn comes with it.
        from profanity_check import predict_prob

        self._predict, self._threshold = predict_prob, settings.profanity_threshold

    def check(self, subject: str, text: str) -> Verdict:
        """Refuses from the threshold on; raises ValueError as `check_text`."""
        check_text(subject, text)
        score = float(max(self._predict(list(readings(text)))))
        is_allowed = score < self._threshold
        reason = None if is_allowed else "abusive language"
        return Verdict(subject, self.name, score, self._threshold, is_allowed, reason)
