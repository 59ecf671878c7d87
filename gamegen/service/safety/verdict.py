"""Verdict of one safety check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SafetyVerdict:
    """Score of one checker; `subject` is prompt, negative_prompt, image, source or frames."""

    subject: str
    checker: str
    score: float
    threshold: float
    is_allowed: bool
    reason: str | None = None
