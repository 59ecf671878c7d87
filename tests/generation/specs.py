"""Clip specifications of tests."""

from __future__ import annotations

from typing import Any

from gamegen.generation.spec import ClipSpec


def a_clip(**changes: Any) -> ClipSpec:
    """A clip of three chunks of the tiny model: three, two and two denoising steps."""
    facts: dict[str, Any] = {
        "width": 32,
        "height": 32,
        "num_frames": 11,
        "num_steps": 2,
        "guidance_scale": 1.0,
        "seed": 3,
    }
    return ClipSpec(**facts | changes)
