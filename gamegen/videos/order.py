"""What is ordered: everything a clip depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Any

from gamegen.config import build


class Tier(StrEnum):
    """What an order waits for and costs; see `gamegen.videos.tiers`."""

    REALTIME = "realtime"
    STANDARD = "standard"
    CINEMA = "cinema"


@dataclass(frozen=True)
class Order:
    """A clip, once everything that was left out has been filled in: the same order draws the same pixels.

    `width` and `height` are in pixels; `num_frames` frames are drawn at 24 a second, and written at `fps`. `image_key`
    and `source_key` are objects: a first picture, or a video to go on from (at most one of them), each named by the
    SHA-256 of its bytes. `model` is a served model, with changes if any.
    """

    model: str
    prompt: str
    negative_prompt: str
    perspective: str
    width: int
    height: int
    num_frames: int
    fps: int
    num_steps: int
    guidance_scale: float
    seed: int
    image_key: str | None = None
    source_key: str | None = None

    @property
    def batch_key(self) -> str:
        """Orders of one key can be drawn in one batch."""
        return f"{self.model}|{self.width}x{self.height}|{self.num_steps}|{self.guidance_scale:g}"

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all of it, in hexadecimal: what is already drawn is found by it."""
        return hashlib.sha256(_canonical(self.to_dict())).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """For the database."""
        # Nothing in it has to be copied, which takes `asdict` most of its time.
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Order:
        """The inverse; raises ValueError that names the key."""
        return build(cls, data, "order")


def body_hash(body: dict[str, Any]) -> str:
    """SHA-256 of a request's body in hexadecimal, however its keys are ordered."""
    return hashlib.sha256(_canonical(body)).hexdigest()


def _canonical(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
