"""Requests of a run: no two clips are the same, so that none is answered from an earlier render."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PROMPTS = ("a castle in the snow", "desert at noon", "a lake between hills", "ruins at night")
_TIERS = ("standard", "realtime", "cinema")


@dataclass(frozen=True, kw_only=True)
class OrderRequest:
    """Request of one clip; `num_steps` denoising steps are taken for each of its chunks of four frames."""

    request_id: str
    prompt: str
    seed: int
    tier: str
    num_frames: int
    num_steps: int

    def body(self) -> dict[str, Any]:
        """Body of the HTTP request."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "tier": self.tier,
            "num_frames": self.num_frames,
            "num_steps": self.num_steps,
        }


def new_requests(count: int, num_frames: int, num_steps: int) -> list[OrderRequest]:
    """Makes `count` requests, each with its own seed."""
    return [
        OrderRequest(
            request_id=f"chaos-{number}",
            prompt=_PROMPTS[number % len(_PROMPTS)],
            seed=number,
            tier=_TIERS[number % len(_TIERS)],
            num_frames=num_frames,
            num_steps=num_steps,
        )
        for number in range(count)
    ]
