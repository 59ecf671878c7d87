"""Orders and the part of them that a renderer sees."""

from __future__ import annotations

import pytest

from gamegen.generation.spec import ClipStart
from tests.service.orders.orders import order


def test_a_renderer_sees_the_size_the_sampling_and_the_start() -> None:
    ordered = order(image_key="inputs/1")
    spec = ordered.clip_spec
    assert (spec.size, spec.num_frames, spec.num_steps) == ((160, 96), 8, 4)
    assert (spec.guidance_scale, spec.seed) == (3.0, ordered.seed)
    assert (spec.start, spec.content_hash) == (ClipStart.IMAGE, ordered.content_hash)
    assert order(source_key="inputs/2").clip_spec.start is ClipStart.VIDEO
    assert order().clip_spec.start is ClipStart.NOTHING


def test_orders_that_cannot_be_drawn_are_refused() -> None:
    with pytest.raises(ValueError, match="num_steps = 101"):
        _ = order(num_steps=101).clip_spec
    with pytest.raises(ValueError, match="give one of them"):
        _ = order(image_key="inputs/1", source_key="inputs/2").clip_spec
