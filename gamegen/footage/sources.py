"""The games that footage is recorded from, by name."""

from __future__ import annotations

from gamegen.footage.recorder import Recorder

GAMES = ("minetest", "vizdoom")


def _unknown(game: str) -> ValueError:
    return ValueError(f"unknown game {game!r}: choose one of {', '.join(GAMES)}")


def biomes_of(game: str) -> tuple[str, ...]:
    """The biomes a game offers. Raises ValueError for an unknown game."""
    if game == "minetest":
        from gamegen.footage.minetest.recorder import MinetestRecorder

        return MinetestRecorder.biomes
    if game == "vizdoom":
        from gamegen.footage.vizdoom.recorder import VizdoomRecorder

        return VizdoomRecorder.biomes
    raise _unknown(game)


def open_recorder(game: str, world_seed: int, size: tuple[int, int] = (256, 144)) -> Recorder:
    """Opens a world with pictures of `size` (width, height). Raises ValueError for an unknown game."""
    if game == "minetest":
        from gamegen.footage.minetest.client import ClientConfig
        from gamegen.footage.minetest.recorder import MinetestConfig, MinetestRecorder

        return MinetestRecorder(world_seed, MinetestConfig(ClientConfig(width=size[0], height=size[1])))
    if game == "vizdoom":
        from gamegen.footage.vizdoom.recorder import VizdoomConfig, VizdoomRecorder

        return VizdoomRecorder(world_seed, VizdoomConfig(width=size[0], height=size[1]))
    raise _unknown(game)
