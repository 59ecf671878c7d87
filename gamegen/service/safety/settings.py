"""Interfaces of checkers, and the settings that choose them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gamegen.service.safety.verdict import SafetyVerdict

TEXTS = ("prompt", "negative_prompt")
PICTURES = ("image", "source", "frames")
"""Subjects of frames: a first image, a source video, and the generated frames."""
NONE = "none"
MAX_TEXT_LENGTH = 2000
"""Characters of the longest text that is checked."""
MAX_SAMPLED_FRAMES = 256


class PromptChecker(Protocol):
    """Checker of texts, made once in a process with the `SafetySettings`, and called from several threads."""

    def check(self, subject: str, text: str) -> SafetyVerdict:
        """Checks a text; `subject` is one of `TEXTS`. An exception keeps the order from being generated."""


class FramesChecker(Protocol):
    """Checker of frames, made once in a process with the `SafetySettings`, and called from several threads."""

    def check(self, subject: str, frames: np.ndarray) -> SafetyVerdict:
        """Checks uint8 `(T, H, W, 3)`; `subject` is one of `PICTURES`. An exception keeps them from being shown."""


@dataclass(frozen=True)
class SafetySettings:
    """Checkers, and the scores from which they refuse.

    A checker is `blocklist`, `profanity` or `nsfw`, or an operator's class as `package.module:Class`; `none` alone
    disables checks. `blocklist_file` replaces the shipped list. `num_sampled_frames` of a video are checked.
    """

    prompt_checkers: tuple[str, ...] = ("blocklist", "profanity")
    frames_checkers: tuple[str, ...] = ("nsfw",)
    blocklist_file: str | None = None
    profanity_threshold: float = 0.998
    nsfw_threshold: float = 0.8
    num_sampled_frames: int = 8

    def __post_init__(self) -> None:
        for name, threshold in (
            ("profanity_threshold", self.profanity_threshold),
            ("nsfw_threshold", self.nsfw_threshold),
        ):
            if not 0 < threshold <= 1:
                raise ValueError(f"{name} = {threshold}: must be above 0 and at most 1")
        if not 1 <= self.num_sampled_frames <= MAX_SAMPLED_FRAMES:
            raise ValueError(
                f"num_sampled_frames = {self.num_sampled_frames}: must be 1 to {MAX_SAMPLED_FRAMES}"
            )


def check_text(subject: str, text: str) -> None:
    """Raises ValueError unless `subject` is one of `TEXTS` and the text at most `MAX_TEXT_LENGTH` long."""
    if subject not in TEXTS:
        raise ValueError(f"subject = {subject!r}: a text is one of {', '.join(TEXTS)}")
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(
            f"the {subject} has {len(text)} characters, the limit is {MAX_TEXT_LENGTH}: shorten it"
        )
