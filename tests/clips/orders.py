"""Orders of tests."""

from __future__ import annotations

from typing import Any

from gamegen.videos.order import Order


def an_order(**changes: Any) -> Order:
    """A clip of three chunks of the tiny model: three, two and two denoising steps."""
    facts: dict[str, Any] = {
        "model": "tiny",
        "prompt": "a forest",
        "negative_prompt": "",
        "perspective": "first",
        "width": 32,
        "height": 32,
        "num_frames": 11,
        "fps": 24,
        "num_steps": 2,
        "guidance_scale": 1.0,
        "seed": 3,
    }
    return Order(**facts | changes)
