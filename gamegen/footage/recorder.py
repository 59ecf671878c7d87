"""The interface of a footage source: a game stepped frame by frame that tells the truth about itself."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, Self

import numpy as np

TIMES_OF_DAY = ("day", "dusk", "dawn", "night")
WEATHERS = ("clear", "rain", "snow", "fog", "cloudy", "storm", "dust")
VIEWS = ("first", "third")


class SceneNotFoundError(RuntimeError):
    """The world has no suitable place for the asked scene; another seed may lead to one."""


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
    """A frame, uint8 `(height, width, 3)` RGB, and what is true of it."""

    frame: np.ndarray
    truth: Truth


class Recorder(Protocol):
    """A running game world. Use it as a context manager or call `close`."""

    game: str
    licence: str
    biomes: tuple[str, ...]

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
