"""Records ViZDoom: the engine's 35 tics a second resampled to 24 frames a second."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import vizdoom

from gamegen.constants import FPS
from gamegen.footage.recorder import Observation, Scene, SceneNotFoundError, TiltRange, Truth
from gamegen.footage.vizdoom.world import BIOMES, MAPS, WEATHER_TOKENS, WORLD_UNITS, write_world

TICS_PER_S = 35
UNITS_PER_NODE = 48.0
"""Map units in the length that positions are told in: about a metre."""
BUTTONS = {
    "w": vizdoom.Button.MOVE_FORWARD,
    "s": vizdoom.Button.MOVE_BACKWARD,
    "a": vizdoom.Button.MOVE_LEFT,
    "d": vizdoom.Button.MOVE_RIGHT,
    "space": vizdoom.Button.JUMP,
    "e": vizdoom.Button.ATTACK,
    "q": vizdoom.Button.CROUCH,
}
VARIABLES = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "PITCH")


@dataclass(frozen=True)
class Light:
    """The colour that tints the world and the colour that far things fade to (hexadecimal RGB)."""

    sky: str
    tint: str
    fade: str


CLEAR = {
    "day": Light("GGSKYDAY", "ffffff", "000000"),
    "dusk": Light("GGSKYDSK", "f0a070", "402018"),
    "dawn": Light("GGSKYDWN", "e0c0c0", "000000"),
    "night": Light("GGSKYNIT", "6a76b0", "04050c"),
}
GREY = {
    "day": Light("GGSKYGRY", "b0b4b8", "000000"),
    "dusk": Light("GGSKYGRY", "a08070", "201410"),
    "dawn": Light("GGSKYGRY", "a89898", "181414"),
    "night": Light("GGSKYDRK", "6c769e", "080a10"),
}
THICK = {
    "fog": {"day": "9c9ca0", "dusk": "6c6058", "dawn": "787074", "night": "202430"},
    "dust": {"day": "a87c50", "dusk": "6c4c34", "dawn": "78583c", "night": "2c241c"},
}
CLEAR_SIGHT, THICK_SIGHT = 8.0, 1.5
MAX_TILTS = TiltRange(-31.8, 55.8)
"""Just inside of what the software renderer can draw: it stops at 32 degrees up and 56 down."""


@dataclass(frozen=True)
class VizdoomConfig:
    """Picture size in pixels (one of the engine's), margins to the world's rim in map units, degrees."""

    width: int = 256
    height: int = 144
    field_of_view_deg: int = 90
    start_tilt_deg: float = 7.2
    start_margin: float = 900.0
    hazard_margin: float = 260.0
    enter_tries: int = 8


def light_for(weather: str, time_of_day: str) -> Light:
    """Sky and colours for a weather and a time of day."""
    if weather in THICK:
        night = time_of_day == "night"
        sky = "GGSKYDRK" if night else {"fog": "GGSKYFOG", "dust": "GGSKYDST"}[weather]
        return Light(sky, GREY[time_of_day].tint, THICK[weather][time_of_day])
    return (CLEAR if weather == "clear" else GREY)[time_of_day]


class VizdoomRecorder:
    """One generated world of seed `world_seed`; implements `gamegen.footage.recorder.Recorder`.

    Raises ValueError if the engine does not draw pictures of the asked size.
    """

    game = "vizdoom"
    licence = "BSD-3-Clause (Freedoom media; generated world: CC0-1.0; engine GPL-2.0)"
    biomes = tuple(BIOMES)
    tilts = MAX_TILTS
    vertical_fov_deg: float | None = None

    def __init__(self, world_seed: int, config: VizdoomConfig | None = None) -> None:
        self.config = config or VizdoomConfig()
        self._folder = tempfile.TemporaryDirectory(prefix="gamegen-vizdoom-")
        world = Path(self._folder.name) / "world.wad"
        write_world(world, world_seed)
        self._scene = Scene(self.biomes[0], "clear", "day", "first", 1)
        self._weather, self._time, self._view = "clear", "day", "first"
        self._frame = 0
        self._heading_deg = self._tilt_deg = 0.0
        self._game = _open_game(world, self.config)

    def __enter__(self) -> VizdoomRecorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the game. May be called twice."""
        self._game.close()
        self._folder.cleanup()

    def enter(self, scene: Scene) -> Observation:
        """Opens the biome's map and goes to a place drawn from the scene's seed.

        Raises SceneNotFoundError if trees stand on every place that was tried.
        """
        rng = Random(scene.place_seed)
        # The view is left as it is: the game keeps it from map to map.
        self._scene, self._frame = scene, 0
        self._game.set_doom_map(MAPS[scene.biome])
        self._game.set_seed(scene.place_seed % 2**31)
        self._game.new_episode()
        margin = self.config.start_margin
        for _ in range(self.config.enter_tries):
            x, y = (rng.uniform(margin, WORLD_UNITS - margin) for _ in range(2))
            self._game.send_game_command(f"warp {x:.0f} {y:.0f}")
            self._play((), 0.0, 0.0, tics=2)
            if math.dist((x, y), self._variables()[:2]) < UNITS_PER_NODE:
                break
        else:
            raise SceneNotFoundError(f"no free place in {scene.biome} for place seed {scene.place_seed}")
        self._weather, self._time = "", ""
        self.change(scene.weather, scene.time_of_day, scene.view)
        self._play((), rng.uniform(-180, 180), self.config.start_tilt_deg, tics=4)
        self._play((), 0.0, 0.0, tics=TICS_PER_S)  # lets precipitation fill the air
        observation = self._observe()
        self._heading_deg, self._tilt_deg = observation.truth.heading_deg, observation.truth.tilt_deg
        return observation

    def change(
        self, weather: str | None = None, time_of_day: str | None = None, view: str | None = None
    ) -> None:
        """Changes the world; the effect shows from the next step on."""
        self._weather, self._time = weather or self._weather, time_of_day or self._time
        if weather or time_of_day:
            light = light_for(self._weather, self._time)
            sight = THICK_SIGHT if self._weather in THICK else CLEAR_SIGHT
            commands = [f"changesky {light.sky}", f"testcolor {light.tint}", f"testfade {light.fade}"]
            commands += [f"r_visibility {sight}", *(f"take {token} 1" for token in WEATHER_TOKENS.values())]
            falling = "rain" if self._weather == "storm" else self._weather
            if falling in WEATHER_TOKENS:
                commands.append(f"give {WEATHER_TOKENS[falling]}")
            for command in commands:
                self._game.send_game_command(command)
        if view and view != self._view:
            self._game.send_game_command("chase")
            self._view = view

    def step(self, keys: Iterable[str], yaw_deg: float, pitch_deg: float) -> Observation:
        """Plays one frame: one or two tics, so that frames keep the game's own speed.

        The engine rounds each turn, so a step makes up for what the turns before it lack: they add up exactly.
        """
        before, after = (frame * TICS_PER_S // FPS for frame in (self._frame, self._frame + 1))
        self._frame += 1
        self._heading_deg += yaw_deg
        self._tilt_deg = min(max(self._tilt_deg + pitch_deg, MAX_TILTS.highest_deg), MAX_TILTS.lowest_deg)
        heading, tilt = self._look_deg()
        missing = (self._heading_deg - heading + 180) % 360 - 180
        self._play(keys, missing, self._tilt_deg - tilt, after - before)
        return self._observe()

    def _look_deg(self) -> tuple[float, float]:
        """Heading and tilt as the engine has them."""
        *_, angle, pitch = self._variables()
        return (90.0 - angle) % 360, pitch

    def _play(self, keys: Iterable[str], yaw_deg: float, pitch_deg: float, tics: int) -> None:
        held = set(keys)
        # Camera deltas count for each tic, and the engine's pitch button looks up.
        action = [float(key in held) for key in BUTTONS] + [yaw_deg / tics, -pitch_deg / tics]
        self._game.make_action(action, tics)

    def _variables(self) -> list[float]:
        return [self._game.get_game_variable(getattr(vizdoom.GameVariable, name)) for name in VARIABLES]

    def _observe(self) -> Observation:
        x, y, z = self._variables()[:3]
        heading, tilt = self._look_deg()
        truth = Truth(
            biome=self._scene.biome,
            weather=self._weather,
            time_of_day=self._time,
            view=self._view,
            position=(x / UNITS_PER_NODE, z / UNITS_PER_NODE, y / UNITS_PER_NODE),
            heading_deg=heading,
            tilt_deg=tilt,
            hazard=self._near_rim(x, y),
            lost=False,
        )
        return Observation(self._game.get_state().screen_buffer.copy(), truth)

    def _near_rim(self, x: float, y: float) -> bool:
        margin = self.config.hazard_margin
        vx = self._game.get_game_variable(vizdoom.GameVariable.VELOCITY_X)
        vy = self._game.get_game_variable(vizdoom.GameVariable.VELOCITY_Y)
        leaves_x = (x < margin and vx < 0) or (x > WORLD_UNITS - margin and vx > 0)
        leaves_y = (y < margin and vy < 0) or (y > WORLD_UNITS - margin and vy > 0)
        return leaves_x or leaves_y


def _open_game(world: Path, config: VizdoomConfig) -> vizdoom.DoomGame:
    name = f"RES_{config.width}X{config.height}"
    resolution = getattr(vizdoom.ScreenResolution, name, None)
    if resolution is None:
        raise ValueError(f"ViZDoom draws no {config.width}x{config.height} pictures: use 256x144 or 640x360")
    game = vizdoom.DoomGame()
    game.set_doom_game_path(str(Path(vizdoom.__file__).parent / "freedoom2.wad"))
    game.set_doom_config_path(str(world.with_name("vizdoom.ini")))
    game.set_doom_scenario_path(str(world))
    game.set_doom_map(next(iter(MAPS.values())))
    game.set_screen_resolution(resolution)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_window_visible(False)
    game.set_render_hud(False)
    game.set_render_crosshair(False)
    game.set_render_weapon(True)
    game.set_render_messages(False)
    game.set_episode_timeout(0)
    camera = [vizdoom.Button.TURN_LEFT_RIGHT_DELTA, vizdoom.Button.LOOK_UP_DOWN_DELTA]
    game.set_available_buttons([*BUTTONS.values(), *camera])
    game.add_game_args(f"+sv_cheats 1 +sv_infiniteammo 1 +fov {config.field_of_view_deg}")
    game.init()
    return game
