"""All checks that were chosen, by name: loaded when they are first needed."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from gamegen.safety.settings import (
    NONE,
    PICTURES,
    FramesChecker,
    PromptChecker,
    SafetySettings,
    check_text,
)
from gamegen.video import check_pixels
from gamegen.videos.records import Verdict

PROMPT_CHECKERS = {
    "blocklist": "gamegen.safety.blocklist:BlocklistChecker",
    "profanity": "gamegen.safety.profanity:ProfanityChecker",
}
FRAMES_CHECKERS = {"nsfw": "gamegen.safety.nsfw:NsfwChecker"}


class SafetyChecks:
    """Asks every checker that was chosen. One that raises is no permission: the error goes on to the caller.

    Raises ValueError for a name that is unknown or cannot be imported, when it is made.
    """

    def __init__(self, settings: SafetySettings) -> None:
        self._settings = settings
        self._prompt_classes = _classes("prompt_checkers", settings.prompt_checkers, PROMPT_CHECKERS)
        self._frames_classes = _classes("frames_checkers", settings.frames_checkers, FRAMES_CHECKERS)

    def check_text(self, subject: str, text: str) -> list[Verdict]:
        """A verdict of each checker on a prompt or a negative prompt; none on an empty one.

        Raises ValueError for another subject, or a text over `MAX_TEXT_LENGTH`.
        """
        check_text(subject, text)
        return [checker.check(subject, text) for checker in self._prompt_checkers] if text.strip() else []

    def check_frames(self, subject: str, frames: np.ndarray) -> list[Verdict]:
        """A verdict of each checker on uint8 `(T, H, W, 3)`; raises ValueError for another subject or shape."""
        if subject not in PICTURES:
            raise ValueError(f"subject = {subject!r}: pictures are one of {', '.join(PICTURES)}")
        check_pixels(frames)
        return [checker.check(subject, frames) for checker in self._frames_checkers]

    def load_prompt_checkers(self) -> None:
        """Loads what judges words, so that the first order need not wait for it."""
        _ = self._prompt_checkers

    def load_frames_checkers(self) -> None:
        """Loads what judges pictures."""
        _ = self._frames_checkers

    @cached_property
    def _prompt_checkers(self) -> list[PromptChecker]:
        return [_loaded(path)(self._settings) for path in self._prompt_classes]

    @cached_property
    def _frames_checkers(self) -> list[FramesChecker]:
        return [_loaded(path)(self._settings) for path in self._frames_classes]


def refusal(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The first verdict that refuses, if one does."""
    return next((verdict for verdict in verdicts if not verdict.is_allowed), None)


def _classes(setting: str, names: Sequence[str], known: dict[str, str]) -> list[str]:
    """Where the classes of some names are; those that are not ours are looked for at once."""
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
