"""Records Minetest: scenes, keys and camera turned into the client's input, truth from the server mod."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from gamegen.files import write_atomically
from gamegen.footage.minetest.client import Client, ClientConfig, ClientError
from gamegen.footage.recorder import Observation, Scene, SceneNotFoundError, TiltRange, Truth

BIOMES = {
    "grassland": "grassland",
    "taiga": "taiga",
    "snowy grassland": "snowy_grassland",
    "ice sheet": "icesheet",
    "desert": "desert",
    "sandstone desert": "sandstone_desert",
    "savanna": "savanna",
    "deciduous forest": "deciduous_forest",
    "rainforest": "rainforest",
    "coniferous forest": "coniferous_forest",
    "tundra": "tundra",
    "cold desert": "cold_desert",
}
"""Readable biome names and the game's own."""

SWING_FRAMES = 8
"""A held attack swings again after this many frames: the game swings once for each click."""
MIN_DAYLIGHT = 6
MAX_FALL_NODES_S = 14.0
HIDDEN_STEP_US = 1000
SKY_STEP_US = 20
SKY_DELAY_FRAMES = 2


@dataclass(frozen=True)
class MinetestConfig:
    """`start_tilt_deg` looks down; `fog_nodes` is the sight in fog; times are seconds of waiting.

    The game's sky fades to a new colour by 2 % a drawn frame: `sky_frames` hidden frames do it at once.
    """

    client: ClientConfig = field(default_factory=ClientConfig)
    start_tilt_deg: float = 7.2
    fog_nodes: int = 22
    dust_nodes: int = 30
    scene_timeout_s: float = 60.0
    settle_s: float = 1.2
    sky_frames: int = 90


def readable_biome(name: str) -> str:
    """The readable name of the game's biome: shores and dunes count as the land they belong to."""
    for readable, own in sorted(BIOMES.items(), key=lambda item: -len(item[1])):
        if name == own or name.startswith(own + "_"):
            return readable
    return name.replace("_", " ")


class MinetestRecorder:
    """One Minetest world of seed `world_seed`; implements `gamegen.footage.recorder.Recorder`."""

    game = "minetest"
    licence = "CC BY-SA 4.0 (Minetest Game media CC BY-SA 3.0, engine LGPL-2.1+)"
    biomes = tuple(BIOMES)
    tilts = TiltRange(-89.0, 89.0)

    def __init__(self, world_seed: int, config: MinetestConfig | None = None) -> None:
        self.config = config or MinetestConfig()
        self.vertical_fov_deg: float | None = self.config.client.drawn_fov_deg
        self._client = Client(self.config.client, world_seed)
        self._command_id = 0
        self._attack_frames = 0
        self._view = "first"
        self._weather = "clear"
        self._heading_deg = self._tilt_deg = 0.0
        self._sky_countdown: int | None = None
        self._status: dict = {}
        try:
            self._await_server()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> MinetestRecorder:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the game. May be called twice."""
        self._client.close()

    def enter(self, scene: Scene) -> Observation:
        """Goes to open ground of the scene's biome, waits for the land around it and returns the first frame.

        Raises SceneNotFoundError if the world has no such place for this seed.
        """
        heading = Random(scene.place_seed).uniform(0, 360)
        place = {
            "biome": BIOMES[scene.biome],
            "seed": scene.place_seed,
            "heading_deg": heading,
            "tilt_deg": self.config.start_tilt_deg,
        }
        self.change(scene.weather, scene.time_of_day, scene.view, enter=place)
        deadline = time.monotonic() + self.config.scene_timeout_s
        while not (self._status.get("id") == self._command_id and self._status.get("ready")):
            self._idle()
            if time.monotonic() > deadline:
                raise SceneNotFoundError(f"{scene.biome} was not ready in {self.config.scene_timeout_s} s")
        if not self._status["found"]:
            raise SceneNotFoundError(f"no open ground in {scene.biome} for place seed {scene.place_seed}")
        settled = time.monotonic() + self.config.settle_s
        while time.monotonic() < settled:
            self._idle()
        self._heading_deg, self._tilt_deg = self._status["heading_deg"], self._status["tilt_deg"]
        self._fade_sky()
        return self.step((), 0.0, 0.0)

    def change(
        self,
        weather: str | None = None,
        time_of_day: str | None = None,
        view: str | None = None,
        enter: dict | None = None,
    ) -> None:
        """Changes the world; weather and time show within a few frames, the view in the next one."""
        self._weather = weather or self._weather
        wanted = {"weather": weather, "time": time_of_day, "enter": enter}
        wanted = {name: value for name, value in wanted.items() if value is not None}
        if wanted:
            self._command_id += 1
            with write_atomically(self._client.world / "command.json") as partial:
                partial.write_text(json.dumps({"id": self._command_id, **wanted}))
            self._sky_countdown = SKY_DELAY_FRAMES
        if view and view != self._view:
            # The key cycles first -> third from behind -> third from the front.
            for _ in range(1 if view == "third" else 2):
                self._client.skip_frame(HIDDEN_STEP_US, self._fog_nodes(), press="f7")
                self._client.skip_frame(HIDDEN_STEP_US, self._fog_nodes(), release="f7")
            self._view = view

    def step(self, keys: Iterable[str], yaw_deg: float, pitch_deg: float) -> Observation:
        """Plays one frame. Camera turns are rounded to mouse pixels of `mouse_sensitivity` degrees."""
        held = set(keys)
        attack = "e" in held
        self._attack_frames = self._attack_frames + 1 if attack else 0
        degrees = self.config.client.mouse_sensitivity
        dx, dy = round(yaw_deg / degrees), round(pitch_deg / degrees)
        self._heading_deg = (self._heading_deg + dx * degrees) % 360
        self._tilt_deg += dy * degrees
        self._client.send(
            held - {"e"},
            (dx, dy),
            attack=attack and self._attack_frames % SWING_FRAMES != 0,
            fog_end_nodes=self._fog_nodes(),
        )
        capture = self._client.receive()
        assert capture is not None
        truth = self._truth()
        if self._sky_countdown is not None and self._status["id"] == self._command_id:
            self._sky_countdown -= 1
            if self._sky_countdown <= 0:
                self._fade_sky()
        return Observation(capture.frame, truth, capture.inverse_depth)

    def _fog_nodes(self) -> int:
        return {"fog": self.config.fog_nodes, "dust": self.config.dust_nodes}.get(self._weather, 0)

    def _truth(self) -> Truth:
        status = self._read_status()
        falling = status["fall_speed"] > MAX_FALL_NODES_S
        lost = status["liquid"] or status["daylight"] < MIN_DAYLIGHT or falling
        return Truth(
            biome=readable_biome(status["biome"]),
            weather=status["weather"],
            time_of_day=status["time"],
            view=self._view,
            position=self._client.position(),
            heading_deg=self._heading_deg,
            tilt_deg=self._tilt_deg,
            hazard=status["hazard"],
            lost=lost,
        )

    def _read_status(self) -> dict:
        path = self._client.world / "status.json"
        if path.exists():
            self._status = json.loads(path.read_text())
        return self._status

    def _fade_sky(self) -> None:
        """Draws the sky's fade to its new colours in hidden frames that last no time together."""
        self._sky_countdown = None
        for _ in range(self.config.sky_frames):
            self._client.skip_frame(SKY_STEP_US, self._fog_nodes())

    def _idle(self) -> None:
        """Lets the server and the mesh builder work: drawing at full speed would starve them."""
        time.sleep(0.02)
        self._client.send()
        self._client.receive()
        self._read_status()

    def _await_server(self) -> None:
        timeout_s = self.config.client.start_timeout_s
        deadline = time.monotonic() + timeout_s
        self._client.receive()
        while not self._read_status():
            self._client.send(virtual_clock=False)
            self._client.receive()
            time.sleep(0.02)
            if time.monotonic() > deadline:
                raise ClientError(f"the world did not open in {timeout_s} s{self._client.log()}")
        for _ in range(20):
            self._idle()
