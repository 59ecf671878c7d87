"""Configured safety checks, loaded when they are first used."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gamegen.media.frames import check_pixels
from gamegen.service.safety.settings import (
    NONE,
    PICTURES,
    FramesChecker,
    PromptChecker,
    SafetySettings,
    check_text,
)
from gamegen.service.safety.verdict import SafetyVerdict

PROMPT_CHECKERS = {
    "blocklist": "gamegen.service.safety.blocklist:BlocklistChecker",
    "profanity": "gamegen.service.safety.profanity:ProfanityChecker",
}
FRAMES_CHECKERS = {"nsfw": "gamegen.service.safety.nsfw:NsfwChecker"}


class SafetyChecks:
    """Runs every configured checker. An error of a checker allows nothing: it is raised to the caller.

    The constructor raises ValueError for a checker that is unknown or cannot be imported.
    """

    def __init__(self, settings: SafetySettings) -> None:
        self._settings = settings
        self._prompt_classes = _classes("prompt_checkers", settings.prompt_checkers, PROMPT_CHECKERS)
        self._frames_classes = _classes("frames_checkers", settings.frames_checkers, FRAMES_CHECKERS)

    def check_text(self, subject: str, text: str) -> list[SafetyVerdict]:
        """Verdicts of all checkers on a prompt or a negative prompt; none for an empty text.

        Raises ValueError for another subject, or a text over `MAX_TEXT_LENGTH`.
        """
        check_text(subject, text)
        return [checker.check(subject, text) for checker in self._prompt_checkers] if text.strip() else []

    def check_frames(self, subject: str, frames: np.ndarray) -> list[SafetyVerdict]:
        """Verdicts of all checkers on uint8 `(T, H, W, 3)`; raises ValueError for another subject or shape."""
        if subject not in PICTURES:
            raise ValueError(f"subject = {subject!r}: pictures are one of {', '.join(PICTURES)}")
        check_pixels(frames)
        return [checker.check(subject, frames) for checker in self._frames_checkers]

    def load_prompt_checkers(self) -> None:
        """Loads the checkers of texts, so that the first order does not wait for them."""
        _ = self._prompt_checkers

    def load_frames_checkers(self) -> None:
        """Loads the checkers of frames."""
        _ = self._frames_checkers

    @cached_property
    def _prompt_checkers(self) -> list[PromptChecker]:
        return [_loaded(path)(self._settings) for path in self._prompt_classes]

    @cached_property
    def _frames_checkers(self) -> list[FramesChecker]:
        return [_loaded(path)(self._settings) for path in self._frames_classes]


def refusal(verdicts: Sequence[SafetyVerdict]) -> SafetyVerdict | None:
    """The first verdict that refuses, or None."""
    return next((verdict for verdict in verdicts if not verdict.is_allowed), None)


def _classes(setting: str, names: Sequence[str], known: dict[str, str]) -> list[str]:
    """Import paths of the named checkers; those of operators are imported at once, to fail early."""
    if NONE in names:
        if len(names) > 1:
            raise ValueError(f"{setting} = {list(names)}: {NONE!r} stands by itself")
        return []
    for name in names:
        if name not in known and ":" not in name:
            raise ValueError(
                f"{setting}: unknown checker {name!r}; write {', '.join(known)}, {NONE} or package.module:Class"
            )
        if name not in known:
            _loaded(name)
    return [known.get(name, name) for name in names]


def _loaded(path: str) -> Any:
    """The class at `package.module:Class`."""
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"the checker {path!r} cannot be imported: {error}") from error
