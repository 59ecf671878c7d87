"""Completion of an order: everything that a request left out is filled in."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Any

from deployments.errors import ApiError
from deployments.videos.presets import size_of
from deployments.videos.schemas import NewVideo
from gamegen.config import build
from gamegen.constants import FPS
from gamegen.generation.drawn_size import drawn_size
from gamegen.generation.spec import DEFAULT_FRAMES, guidance_of
from gamegen.media.enlarging import UPSCALER, enlarges
from gamegen.media.size import Size
from gamegen.models.sampling import SamplingConfig
from gamegen.service.orders.order import Order, Tier, body_hash
from gamegen.service.orders.tiers import TiersConfig

_SEED_BITS = 31
"""Bits of a random seed, which every client's integers can hold."""


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model that draws clips, with its frame size in pixels and its sampling, the defaults of an order."""

    name: str
    width: int
    height: int
    sampling: SamplingConfig

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> ServedModel:
        """The model that a world replica's `facts` describe."""
        return cls(
            name=facts["model"],
            width=facts["width"],
            height=facts["height"],
            sampling=build(SamplingConfig, facts["sampling"], "sampling"),
        )


@dataclass(frozen=True)
class OrderInputs:
    """Keys of the stored first image or source video of an order."""

    image_key: str | None = None
    source_key: str | None = None


def to_order(new: NewVideo, *, model: ServedModel, tiers: TiersConfig, inputs: OrderInputs) -> Order:
    """The complete order of a request; raises ApiError (422) for a model that is not served.

    And for a guidance scale that leaves a negative prompt without effect.
    """
    if new.model not in (None, model.name):
        message = f"model: {new.model!r} is not served here, {model.name!r} is"
        raise ApiError(422, "unknown_model", message)
    size, own = _size(new, model), Size(model.width, model.height)
    drawn = drawn_size(size, own)
    return Order(
        model=model.name,
        prompt=new.prompt,
        negative_prompt=new.negative_prompt,
        perspective=new.perspective,
        width=size.width,
        height=size.height,
        drawn_width=drawn.width,
        drawn_height=drawn.height,
        upscaler=UPSCALER if enlarges(drawn, size) else None,
        num_frames=_num_frames(new),
        fps=new.fps,
        num_steps=new.num_steps or tiers.of(Tier(new.tier)).num_steps,
        guidance_scale=_guidance(new, model),
        solver=new.solver or model.sampling.solver,
        seed=secrets.randbits(_SEED_BITS) if new.seed is None else new.seed,
        image_key=inputs.image_key,
        source_key=inputs.source_key,
    )


def body_hash_of(new: NewVideo) -> str:
    """SHA-256 of a request's fields and files, equal for equal requests whatever their encoding."""
    body: dict[str, Any] = new.model_dump(exclude_unset=True)
    digests = {name: sha256_hex(value) for name, value in body.items() if isinstance(value, bytes)}
    return body_hash({**body, **digests})


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _guidance(new: NewVideo, model: ServedModel) -> float:
    try:
        return guidance_of(new.guidance_scale, model.sampling, bool(new.negative_prompt))
    except ValueError as error:
        raise ApiError(422, "invalid_request", str(error)) from error


def _size(new: NewVideo, model: ServedModel) -> Size:
    if new.size:
        return Size.parse(new.size)
    if new.resolution:
        return size_of(new.resolution, new.aspect_ratio)
    return Size(model.width, model.height)


def _num_frames(new: NewVideo) -> int:
    if new.seconds is not None:
        return round(new.seconds * FPS)
    return new.num_frames or DEFAULT_FRAMES
