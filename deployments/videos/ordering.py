"""From what a client sent to an order that has everything."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from deployments.errors import ApiError
from deployments.videos.presets import size_of, styled
from deployments.videos.schemas import NewVideo
from gamegen.controls import FPS
from gamegen.video import MAX_FRAMES, parse_size
from gamegen.videos.order import Order, Tier, body_hash
from gamegen.videos.tiers import TiersConfig

_SEED_BITS = 31
"""Of a seed that nobody gave: it survives every client's numbers."""


@dataclass(frozen=True)
class ServedModel:
    """The model that draws clips, and what it does when an order leaves something out; sizes in pixels."""

    name: str
    width: int
    height: int
    guidance_scale: float = 1.0
    num_frames: int = MAX_FRAMES


@dataclass(frozen=True)
class Inputs:
    """Objects that an order begins with."""

    image_key: str | None = None
    source_key: str | None = None


def to_order(new: NewVideo, model: ServedModel, tiers: TiersConfig, inputs: Inputs) -> Order:
    """Fills in what was left out; raises ApiError (422) for a model that is not served."""
    if new.model not in (None, model.name):
        message = f"model: {new.model!r} is not served here, {model.name!r} is"
        raise ApiError(422, "unknown_model", message)
    width, height = _size(new, model)
    return Order(
        model=model.name,
        prompt=styled(new.prompt, new.style),
        negative_prompt=new.negative_prompt,
        perspective=new.perspective,
        width=width,
        height=height,
        num_frames=_num_frames(new, model),
        fps=new.fps,
        num_steps=new.num_steps or tiers.of(Tier(new.tier)).num_steps,
        guidance_scale=model.guidance_scale if new.guidance_scale is None else new.guidance_scale,
        seed=secrets.randbits(_SEED_BITS) if new.seed is None else new.seed,
        image_key=inputs.image_key,
        source_key=inputs.source_key,
    )


def hash_of(new: NewVideo) -> str:
    """The same for two requests that say the same, however they are written down."""
    body: dict[str, Any] = new.model_dump(exclude_unset=True)
    digests = {name: digest(value) for name, value in body.items() if isinstance(value, bytes)}
    return body_hash({**body, **digests})


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _size(new: NewVideo, model: ServedModel) -> tuple[int, int]:
    if new.size:
        return parse_size(new.size)
    return size_of(new.resolution, new.aspect_ratio) if new.resolution else (model.width, model.height)


def _num_frames(new: NewVideo, model: ServedModel) -> int:
    if new.seconds is not None:
        return round(new.seconds * FPS)
    return new.num_frames or model.num_frames
