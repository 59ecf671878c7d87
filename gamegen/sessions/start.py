"""What a world begins from: a recorded moment of the gallery, words alone, or a picture or video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from gamegen.media.recorded_start import RecordedStart, is_recorded_start

StartKind = Literal["gallery", "drawn", "picture"]


@dataclass(frozen=True)
class StartFacts:
    """Start of a world as a session reports it; the other fields are None unless `kind` is "gallery"."""

    kind: StartKind
    id: str | None = None
    caption: str | None = None
    credit: str | None = None

    @classmethod
    def of(cls, first_frames: bytes | None) -> StartFacts:
        """Facts about the file that a world continues; raises ValueError for a damaged recorded start."""
        if first_frames is None:
            return cls("drawn")
        if not is_recorded_start(first_frames):
            return cls("picture")
        start = RecordedStart.from_bytes(first_frames)
        return cls("gallery", start.id, start.caption, start.credit)


def resolve_start(wanted: StartKind | None, *, has_picture: bool, has_gallery: bool) -> StartKind:
    """The start that was asked for; of None the first of picture, gallery and drawn that can be had.

    `has_picture` is true if first frames were given. Raises ValueError for one that cannot be had.
    """
    if wanted is None:
        return "picture" if has_picture else "gallery" if has_gallery else "drawn"
    if wanted == "picture" and not has_picture:
        raise ValueError('start = "picture": give the picture or video to go on from, or leave start out')
    if wanted != "picture" and has_picture:
        raise ValueError(
            f'start = "{wanted}": a picture or video is given too, leave it out or take "picture"'
        )
    if wanted == "gallery" and not has_gallery:
        raise ValueError(
            'start = "gallery": this model has no gallery of its latents, take "drawn" or give a picture '
            "(gamegen gallery build makes one)"
        )
    return wanted


def parse_start(text: str | None) -> StartKind | None:
    """The start of a name, None of None; raises ValueError for another name."""
    for kind in get_args(StartKind):
        if text == kind:
            return kind
    if text is not None:
        raise ValueError(f"start = {text!r}: use one of {', '.join(get_args(StartKind))}")
    return None
