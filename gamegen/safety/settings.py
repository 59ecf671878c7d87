"""What a checker is, and which of them are asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from gamegen.videos.records import Verdict

TEXTS = ("prompt", "negative_prompt")
PICTURES = ("image", "source", "frames")
"""A first picture, a video to go on from, and what was drawn."""
NONE = "none"
MAX_TEXT_LENGTH = 2000
"""Characters of a text that is checked."""
MAX_SAMPLED_FRAMES = 256


class PromptChecker(Protocol):
    """Judges words. It is made with the `SafetySettings`, once in a process, and asked from several threads."""

    def check(self, subject: str, text: str) -> Verdict:
        """Judges a text, `subject` being one of `TEXTS`. Whatever it raises keeps the order from being drawn."""


class FramesChecker(Protocol):
    """Judges pictures. It is made with the `SafetySettings`, once in a process, and asked from several threads."""

    def check(self, subject: str, frames: np.ndarray) -> Verdict:
        """Judges uint8 `(T, H, W, 3)`, `subject` being one of `PICTURES`. Whatever it raises keeps them unseen."""


@dataclass(frozen=True)
class SafetySettings:
    """Which checkers are asked, and from which score on they refuse.

    A checker is `blocklist`, `profanity` or `nsfw`, or a class of your own as `package.module:Class`; `none` by itself
    asks nobody. `blocklist_file` is read instead of the shipped list. Of a video `num_sampled_frames` are looked at.
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
                raise ValueError(f"{name} = {threshold}: give a score above 0 and up to 1")
        if not 1 <= self.num_sampled_frames <= MAX_SAMPLED_FRAMES:
            raise ValueError(
                f"num_sampled_frames = {self.num_sampled_frames}: give 1 to {MAX_SAMPLED_FRAMES}"
            )


def check_text(subject: str, text: str) -> None:
    """Raises ValueError unless `subject` is a text's and the text is short enough to be judged."""
    if subject not in TEXTS:
        raise ValueError(f"subject = {subject!r}: a text is one of {', '.join(TEXTS)}")
    if len(text) > MAX_TEXT_LENGTH:
        raise ValueError(
            f"the {subject} has {len(text)} characters, the limit is {MAX_TEXT_LENGTH}: shorten it"
        )
