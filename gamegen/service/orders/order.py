"""Orders: everything that a clip of the service depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cached_property
from typing import Any

from gamegen.config import build
from gamegen.constants import FPS
from gamegen.generation.spec import ClipSpec, ClipStart, check_solver
from gamegen.media.size import Size

_PASSES_TO_WRITE = 1 / 8
"""Cost of upscaling, interpolating and encoding a pixel, in passes of the model over a drawn one."""


class Tier(StrEnum):
    """Class of service, which decides waiting time and price; see `gamegen.service.orders.tiers`."""

    REALTIME = "realtime"
    STANDARD = "standard"
    CINEMA = "cinema"


@dataclass(frozen=True, kw_only=True)
class Order:
    """A request for a clip with all defaults filled in: equal orders give equal pixels.

    `width` and `height` are those of the file in pixels; its `num_frames` frames are drawn at `drawn_width` and
    `drawn_height` (None where that is the same) and 24 a second, enlarged by `upscaler`, and written at `fps`.
    `solver` is None for the model's own. `image_key` and `source_key` are stored objects: an image to start from, or a
    video to continue (at most one of them), each named by the SHA-256 of its bytes. `model` is a served model, with
    variant if any.
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
    drawn_width: int | None = None
    drawn_height: int | None = None
    upscaler: str | None = None
    solver: str | None = None

    @property
    def drawn(self) -> Size:
        """Width and height in pixels at which it is drawn."""
        return Size(self.drawn_width or self.width, self.drawn_height or self.height)

    @property
    def size(self) -> Size:
        """Width and height of the file in pixels."""
        return Size(self.width, self.height)

    @property
    def batch_key(self) -> str:
        """Orders of one key can be rendered in one batch."""
        return f"{self.model}|{self.drawn}|{self.num_steps}|{self.guidance_scale:g}|{self.solver}"

    @property
    def work(self) -> float:
        """Megapixels drawn, times the passes of the model over each; and a share of those that are written besides.

        Raises ValueError as `clip_spec`.
        """
        drawn = self.num_frames * self.drawn.num_pixels
        written = self.num_frames * self.fps / FPS * self.size.num_pixels
        return (drawn * self.clip_spec.passes_of_a_chunk + _PASSES_TO_WRITE * max(0.0, written - drawn)) / 1e6

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of all fields, in hexadecimal: the key by which a finished clip is found again."""
        return hashlib.sha256(_canonical(self.to_dict())).hexdigest()

    @property
    def clip_spec(self) -> ClipSpec:
        """The part of the order that a renderer needs; raises ValueError for an order beyond its limits."""
        if self.image_key and self.source_key:
            raise ValueError("an order with both an image and a source video: give one of them")
        start = (
            ClipStart.IMAGE if self.image_key else ClipStart.VIDEO if self.source_key else ClipStart.NOTHING
        )
        return ClipSpec(
            width=self.drawn.width,
            height=self.drawn.height,
            num_frames=self.num_frames,
            num_steps=self.num_steps,
            guidance_scale=self.guidance_scale,
            seed=self.seed,
            start=start,
            content_hash=self.content_hash,
            solver=check_solver(self.solver),
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields as JSON values, for the database."""
        # `asdict` would spend most of its time on copies.
        return {part.name: getattr(self, part.name) for part in fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Order:
        """The inverse of `to_dict`; raises ValueError that names the key."""
        return build(cls, data, "order")


def body_hash(body: dict[str, Any]) -> str:
    """SHA-256 of a request's body in hexadecimal, independent of the order of its keys."""
    return hashlib.sha256(_canonical(body)).hexdigest()


def _canonical(data: dict[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
