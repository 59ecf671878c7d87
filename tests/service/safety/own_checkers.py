"""Checkers as an operator would write them."""

from __future__ import annotations

import numpy as np

from gamegen.service.safety.settings import SafetySettings
from gamegen.service.safety.verdict import SafetyVerdict


class NoRain:
    """Refuses rain."""

    def __init__(self, settings: SafetySettings) -> None:
        self.settings = settings

    def check(self, subject: str, text: str) -> SafetyVerdict:
        is_allowed = "rain" not in text
        return SafetyVerdict(
            subject, "no rain", float(not is_allowed), 1.0, is_allowed, None if is_allowed else "rain"
        )


class Broken:
    """A service that does not answer."""

    def __init__(self, settings: SafetySettings) -> None:
        self.settings = settings

    def check(self, subject: str, frames: np.ndarray) -> SafetyVerdict:
        raise ConnectionError("no answer")
