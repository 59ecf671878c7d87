"""The interface of a footage source: a game stepped frame by frame that tells the truth about itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np

TIMES_OF_DAY = ("day", "dusk", "dawn", "night")
WEATHERS = ("clear", "rain", "snow", "fog", "cloudy", "storm", "dust")
VIEWS = ("first", "third")
CAMERA_STEP_DEG = 0.2
"""Camera turns in whole multiples of this are carried out exactly: one pixel of mouse motion."""


class SceneNotFoundError(RuntimeError):
    """The world has no suitable place for the asked scene; another seed may lead to one."""


@dataclass(frozen=True)
class TiltRange:
    """Camera tilts that may be looked at, in degrees: `highest_deg` is negative (up), `lowest_deg` positive."""

    highest_deg: float = -60.0
    lowest_deg: float = 60.0

    def __post_init__(self) -> None:
        if not -90 < self.highest_deg < 0 < self.lowest_deg < 90:
            raise ValueError(
                f"tilt range {self.highest_deg} to {self.lowest_deg} degrees: must go from above to below "
                "the horizon and stay within -90 and 90"
            )

    def contains(self, tilt_deg: float) -> bool:
        """True if a camera pitch is in the range, with a tolerance of half a camera step."""
        margin = CAMERA_STEP_DEG / 2
        return self.highest_deg - margin <= tilt_deg <= self.lowest_deg + margin

    def within(self, other: TiltRange) -> TiltRange:
        """The part of this range that lies in another one."""
        return TiltRange(
            max(self.highest_deg, other.highest_deg),
            min(self.lowest_deg, other.lowest_deg),
        )


@dataclass(frozen=True)
class Scene:
    """Where and how a clip starts. `place_seed` picks the place and the heading within the world."""

    biome: str
    weather: str
    time_of_day: str
    view: str
    place_seed: int


@dataclass(frozen=True)
class Truth:
    """What the world is like in one frame.

    `heading_deg` grows to the right (0 to 360), `tilt_deg` is positive looking down. `hazard` tells of water
    or a cliff ahead; `lost` that the player is where no footage is wanted (in water, underground, falling).
    """

    biome: str
    weather: str
    time_of_day: str
    view: str
    position: tuple[float, float, float]
    heading_deg: float
    tilt_deg: float
    hazard: bool = False
    lost: bool = False


class Observation(NamedTuple):
    """A frame, uint8 `(height, width, 3)` RGB, what is true of it, and its inverse depth where the game tells.

    `inverse_depth`, uint8 `(height // 4, width // 4)`, is as in `gamegen.footage.clips.Clip`.
    """

    frame: np.ndarray
    truth: Truth
    inverse_depth: np.ndarray | None = None


class Recorder(Protocol):
    """A running game world. Use it as a context manager or call `close`."""

    game: str
    licence: str
    biomes: tuple[str, ...]
    tilts: TiltRange
    """Camera tilts that the game carries out."""
    vertical_fov_deg: float | None
    """Field of view from top to bottom, None where observations have no depth."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...

    def enter(self, scene: Scene) -> Observation:
        """Goes to the scene and returns its first frame. Raises SceneNotFoundError if there is none."""

    def change(
        self, weather: str | None = None, time_of_day: str | None = None, view: str | None = None
    ) -> None:
        """Changes the world; the effect shows from the next step on."""

    def step(self, keys: Iterable[str], yaw_deg: float, pitch_deg: float) -> Observation:
        """Plays 1/24 s with keys of `MOVEMENT_KEYS` held; returns the frame that shows the effect."""

    def close(self) -> None:
        """Ends the game. May be called twice."""
