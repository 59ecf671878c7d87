"""How many chunks and denoising steps an order takes, and in which manner they are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.models.sampling import SamplingConfig
from gamegen.video import check_frames, check_size
from gamegen.videos.order import Order

MAX_STEPS = 100
"""Denoising steps of one chunk."""
MAX_GUIDANCE_SCALE = 20.0


@dataclass(frozen=True)
class ClipPlan:
    """An order as a model draws it.

    The clip has `num_chunks` chunks, the first `num_given` of which are given (a first picture); `goes_on` says whether
    anything is there before the first that is drawn.
    """

    sampling: SamplingConfig
    num_chunks: int
    num_given: int
    goes_on: bool

    @classmethod
    def of(cls, order: Order, sampling: SamplingConfig) -> ClipPlan:
        """The plan of an order for a model that samples so by itself.

        Orders that ask for another number of steps take at least so many for a first chunk as the model does. Raises
        ValueError for an order that is beyond the limits.
        """
        check_order(order)
        first_steps = sampling.first_steps
        if order.num_steps != sampling.num_steps:
            first_steps = max(first_steps, order.num_steps)
        return cls(
            replace(
                sampling,
                num_steps=order.num_steps,
                first_steps=first_steps,
                guidance_scale=order.guidance_scale,
            ),
            num_chunks=-(-order.num_frames // FRAMES_PER_CHUNK),
            num_given=1 if order.image_key else 0,
            goes_on=bool(order.image_key or order.source_key),
        )

    @property
    def num_steps(self) -> int:
        """Denoising steps of all chunks together; none if all of the clip is given."""
        return self.steps_of(self.num_chunks - self.num_given)

    def steps_of(self, num_drawn: int) -> int:
        """Denoising steps of the first so many chunks that are drawn."""
        if num_drawn == 0:
            return 0
        first = self.sampling.num_steps if self.goes_on else self.sampling.first_steps
        return first + (num_drawn - 1) * self.sampling.num_steps


def check_order(order: Order) -> None:
    """Raises ValueError unless a clip of that length, size, number of steps and guidance can be drawn."""
    check_frames(order.num_frames)
    check_size(order.width, order.height)
    if not 1 <= order.num_steps <= MAX_STEPS:
        raise ValueError(f"num_steps = {order.num_steps}: a chunk takes 1 to {MAX_STEPS}")
    if not (math.isfinite(order.guidance_scale) and 0 <= order.guidance_scale <= MAX_GUIDANCE_SCALE):
        raise ValueError(
            f"guidance_scale = {order.guidance_scale:g}: it is within 0 and {MAX_GUIDANCE_SCALE:g}, and 1 is none"
        )
    if order.image_key and order.source_key:
        raise ValueError("an order with both an image and a source video: give one of them")
