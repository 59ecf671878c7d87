"""Which clips are recorded: scenes and mid-clip changes drawn from a seed, with even biomes.

Drawn by their shares, rare combinations of biome, weather, time of day and view are missing from hours of footage; a
gallery of starts needs them all, so `plan_every_scene` goes through them.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from gamegen.constants import FPS
from gamegen.footage.recorder import Scene

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True)
class PlanConfig:
    """What footage is made of. Shares need not sum to one; lengths and positions are frames.

    A clip's changes fall between `first_change` and `last_change` before its end, `change_gap` apart. Where every
    scene is recorded, `every_weather` are the weathers.
    """

    num_frames: int = 480
    clips_per_world: int = 12
    first_change: int = 120
    last_change: int = 40
    change_gap: int = 90
    two_changes_share: float = 0.6
    third_person_share: float = 0.3
    weather: tuple[tuple[str, float], ...] = (
        ("clear", 44),
        ("rain", 19),
        ("snow", 16),
        ("fog", 12),
        ("cloudy", 4),
        ("storm", 3),
        ("dust", 2),
    )
    time_of_day: tuple[tuple[str, float], ...] = (("day", 50), ("dusk", 12), ("dawn", 8), ("night", 30))
    changes: tuple[tuple[str, float], ...] = (("time", 50), ("weather", 35), ("perspective", 15))
    every_weather: tuple[str, ...] = ("clear", "rain", "snow", "fog")


@dataclass(frozen=True)
class Change:
    """At `frame`, `kind` (time, weather or perspective) becomes `value`; it shows from the next frame."""

    frame: int
    kind: str
    value: str


@dataclass(frozen=True)
class ClipPlan:
    """One clip to record."""

    clip_id: str
    world_seed: int
    num_frames: int
    scene: Scene
    changes: tuple[Change, ...]
    seed: int


def num_clips(hours: float, config: PlanConfig) -> int:
    """How many clips make `hours` of footage. Raises ValueError unless hours is positive."""
    if hours <= 0:
        raise ValueError(f"hours is {hours}: give a positive number, for example 2.0")
    return max(1, round(hours * SECONDS_PER_HOUR * FPS / config.num_frames))


def plan_worlds(
    game: str, biomes: tuple[str, ...], clips: int, seed: int, config: PlanConfig
) -> list[list[ClipPlan]]:
    """The plans of `clips` clips, a list for each world. The same arguments always give the same plans."""
    worlds: list[list[ClipPlan]] = []
    for world in range(-(-clips // config.clips_per_world)):
        rng = Random(f"{seed}/{game}/{world}")
        world_seed = seed * 1000 + world + 1
        count = min(config.clips_per_world, clips - world * config.clips_per_world)
        order = [biomes[i % len(biomes)] for i in range(config.clips_per_world)]
        rng.shuffle(order)
        worlds.append(
            [_plan_clip(game, world_seed, index, order[index], rng, config) for index in range(count)]
        )
    return worlds


def plan_every_scene(
    game: str, biomes: tuple[str, ...], seed: int, config: PlanConfig
) -> list[list[ClipPlan]]:
    """Plans of clips, a list for each world, that show each biome in every weather, at every time and in both views.

    A world has a clip of each biome in one weather, which goes through the times of day and views one by one.
    """
    worlds: list[list[ClipPlan]] = []
    for world in range(len(config.every_weather)):
        rng = Random(f"{seed}/{game}/every scene/{world}")
        world_seed, plans = seed * 1000 + world + 1, []
        for index, biome in enumerate(biomes):
            scenes = _scenes_of(biome, config.every_weather[(world + index) % len(config.every_weather)], rng)
            length = config.num_frames // len(scenes)
            plans.append(
                ClipPlan(
                    clip_id=f"{game}-{world_seed:06d}-{index:02d}",
                    world_seed=world_seed,
                    num_frames=config.num_frames,
                    scene=scenes[0],
                    changes=tuple(
                        _change_to(scene, scenes[number - 1], number * length)
                        for number, scene in enumerate(scenes[1:], start=1)
                    ),
                    seed=rng.randrange(2**31),
                )
            )
        worlds.append(plans)
    return worlds


def _scenes_of(biome: str, weather: str, rng: Random) -> list[Scene]:
    """The scenes of a biome in one weather, each different from the one before in its time or its view alone."""
    # Dusk and dawn look much alike.
    times, views = ["day", rng.choice(("dusk", "dawn")), "night"], ["first", "third"]
    rng.shuffle(times)
    rng.shuffle(views)
    place_seed = rng.randrange(1, 2**31)
    return [
        Scene(biome=biome, weather=weather, time_of_day=time, view=view, place_seed=place_seed)
        for number, time in enumerate(times)
        for view in (views if number % 2 == 0 else views[::-1])
    ]


def _change_to(scene: Scene, before: Scene, frame: int) -> Change:
    if scene.view != before.view:
        return Change(frame, "perspective", scene.view)
    return Change(frame, "time", scene.time_of_day)


def _draw(shares: tuple[tuple[str, float], ...], rng: Random, without: tuple[str, ...] = ()) -> str:
    left = [(value, share) for value, share in shares if value not in without]
    return rng.choices([value for value, _ in left], [share for _, share in left])[0]


def _plan_clip(
    game: str, world_seed: int, index: int, biome: str, rng: Random, config: PlanConfig
) -> ClipPlan:
    scene = Scene(
        biome=biome,
        weather=_draw(config.weather, rng),
        time_of_day=_draw(config.time_of_day, rng),
        view="third" if rng.random() < config.third_person_share else "first",
        place_seed=rng.randrange(1, 2**31),
    )
    return ClipPlan(
        clip_id=f"{game}-{world_seed:06d}-{index:02d}",
        world_seed=world_seed,
        num_frames=config.num_frames,
        scene=scene,
        changes=_plan_changes(scene, rng, config),
        seed=rng.randrange(2**31),
    )


def _plan_changes(scene: Scene, rng: Random, config: PlanConfig) -> tuple[Change, ...]:
    last = config.num_frames - config.last_change
    if last < config.first_change:
        return ()
    frames = [rng.randint(config.first_change, last)]
    if rng.random() < config.two_changes_share:
        for _ in range(20):
            other = rng.randint(config.first_change, last)
            if abs(other - frames[0]) >= config.change_gap:
                frames.append(other)
                break
    current = {"time": scene.time_of_day, "weather": scene.weather, "perspective": scene.view}
    changes = []
    for frame in sorted(frames):
        kind = _draw(config.changes, rng)
        current[kind] = _other_value(kind, current[kind], rng, config)
        changes.append(Change(frame, kind, current[kind]))
    return tuple(changes)


def _other_value(kind: str, now: str, rng: Random, config: PlanConfig) -> str:
    if kind == "perspective":
        return "first" if now == "third" else "third"
    if kind == "weather":
        return _draw(config.weather, rng, without=(now,))
    # Dusk and dawn look much alike: going from one to the other would be an order without a visible effect.
    twilight = ("dusk", "dawn")
    return _draw(config.time_of_day, rng, without=twilight if now in twilight else (now,))
