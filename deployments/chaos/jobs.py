"""What is ordered: clips no two of which are the same, so that none is taken from those that were drawn before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_PROMPTS = ("a castle in the snow", "desert at noon", "a lake between hills", "ruins at night")
_TIERS = ("standard", "realtime", "cinema")


@dataclass(frozen=True)
class Job:
    """One order; `num_steps` denoising steps are taken for each of its chunks of four frames."""

    request_id: str
    prompt: str
    seed: int
    tier: str
    num_frames: int
    num_steps: int

    def body(self) -> dict[str, Any]:
        """The request that orders it."""
        return {
            "prompt": self.prompt,
            "seed": self.seed,
            "tier": self.tier,
            "num_frames": self.num_frames,
            "num_steps": self.num_steps,
        }


def new_jobs(count: int, num_frames: int, num_steps: int) -> list[Job]:
    """So many, each with a seed of its own."""
    return [
        Job(
            f"chaos-{number}",
            _PROMPTS[number % len(_PROMPTS)],
            number,
            _TIERS[number % len(_TIERS)],
            num_frames,
            num_steps,
        )
        for number in range(count)
    ]
