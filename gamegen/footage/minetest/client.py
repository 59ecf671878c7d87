"""Starts a hooked Minetest client on a display of its own and exchanges frames and input with it."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from gamegen.constants import FPS
from gamegen.files import write_atomically
from gamegen.folders import cache_folder
from gamegen.footage.depth import DEPTH_CELL_PX
from gamegen.footage.recorder import CAMERA_STEP_DEG
from gamegen.unix_sockets import short_path

HERE = Path(__file__).parent
HOOK_LIBRARIES = ("-ldl", "-lX11", "-lXtst", "-lGL", "-lpthread")
HOOK_FILE, AUTHORITY_FILE = "hook.so", "authority"
CAPTURE, VIRTUAL_CLOCK = 1, 2
FRAME_US = round(1e6 / FPS)
KEYSYMS = {"w": 0x77, "a": 0x61, "s": 0x73, "d": 0x64, "space": 0x20, "q": 0x71, "f7": 0xFFC4}
LEFT_BUTTON = 1
POSITION = "gamegen position: "
"""Stands before what the client's mod logs."""


class ClientError(RuntimeError):
    """The game did not start or went away; the message holds the end of its log."""


class Capture(NamedTuple):
    """A frame, uint8 `(height, width, 3)`, and its inverse depth as in `Observation`."""

    frame: np.ndarray
    inverse_depth: np.ndarray


@dataclass(frozen=True)
class ClientConfig:
    """How the client draws: window size in pixels, view range in nodes, field of view in degrees."""

    width: int = 256
    height: int = 144
    view_range: int = 50
    field_of_view_deg: int = 72
    mouse_sensitivity: float = CAMERA_STEP_DEG
    start_timeout_s: float = 120.0

    @property
    def drawn_fov_deg(self) -> float:
        """Field of view from top to bottom: the game shows more of it in windows narrower than 16:10."""
        share = (1.6 * self.height / self.width) ** 0.5
        return self.field_of_view_deg * min(max(share, 1.0), 1.4)


def find_game() -> Path | None:
    """The minetest program, None if it is not installed."""
    found = shutil.which("minetest", path=os.environ.get("PATH", "") + ":/usr/games")
    return Path(found) if found else None


def build_hook() -> Path:
    """The compiled hook, built on first use into the user's cache. Raises ClientError if that fails."""
    source = HERE / "hook.c"
    cache = cache_folder()
    library = cache / f"minetest-hook-{hashlib.sha256(source.read_bytes()).hexdigest()[:12]}.so"
    if library.exists():
        return library
    cache.mkdir(parents=True, exist_ok=True)
    with write_atomically(library, is_shared=True) as partial:
        command = ["cc", "-O2", "-shared", "-fPIC", "-o", str(partial), str(source), *HOOK_LIBRARIES]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode:
            raise ClientError(
                f"cannot compile {source}: install gcc libc6-dev libx11-dev libxtst-dev libgl-dev\n"
                f"{result.stderr}"
            )
    return library


def client_settings(config: ClientConfig, world_seed: int) -> dict[str, object]:
    """The game's settings: small, steady, quick to draw, without anything drawn over the picture."""
    return {
        "name": "singleplayer",
        "screen_w": config.width,
        "screen_h": config.height,
        "autosave_screensize": "false",
        "fps_max": 100000,
        "fps_max_unfocused": 100000,
        "vsync": "false",
        "pause_on_lost_focus": "false",
        "viewing_range": config.view_range,
        "fov": config.field_of_view_deg,
        "mouse_sensitivity": config.mouse_sensitivity,
        "enable_shaders": "false",
        "smooth_lighting": "true",
        "leaves_style": "simple",
        "fog_start": 0.4,
        "cloud_radius": 8,
        "view_bobbing_amount": 0.6,
        "enable_sound": "false",
        "show_debug": "false",
        "enable_minimap": "false",
        "node_highlighting": "none",
        "enable_client_modding": "true",
        "autojump": "true",
        "doubletap_jump": "false",
        "keymap_sneak": "KEY_KEY_Q",
        "keymap_drop": "",
        "keymap_camera_mode": "KEY_F7",
        "creative_mode": "true",
        "enable_damage": "false",
        "enable_weather": "false",
        "time_speed": 0,
        "mg_name": "v7",
        "fixed_map_seed": world_seed,
        # The server reports the player's position at its own pace: make that one video frame.
        "dedicated_server_step": round(1 / FPS, 3),
        "server_map_save_interval": 600,
        "max_block_send_distance": 6,
        "max_simultaneous_block_sends_per_client": 80,
        "num_emerge_threads": 1,
        "client_unload_unused_data_timeout": 30,
        "mob_difficulty": 0,
        "debug_log_level": "action",
    }


class Client:
    """One running client. `world` is a scratch folder that `close` removes."""

    def __init__(self, config: ClientConfig, world_seed: int) -> None:
        game = find_game()
        if game is None:
            raise ClientError("the minetest program was not found: install the packages minetest and xvfb")
        self.config = config
        hook = build_hook()
        self.home = Path(tempfile.mkdtemp(prefix="gamegen-minetest-"))
        self.world = self.home / "world"
        self._processes: list[subprocess.Popen] = []
        self._connection: socket.socket | None = None
        self._output: IO[str] | None = None
        self._position = (0.0, 0.0, 0.0)
        self._down: set[int] = set()
        try:
            self._write_world(world_seed)
            self._start(game, hook)
        except BaseException:
            self.close()
            raise

    def _write_world(self, world_seed: int) -> None:
        shutil.copytree(HERE / "mod", self.world / "worldmods" / "gamegen")
        client_mods = self.home / ".minetest" / "clientmods"
        shutil.copytree(HERE / "client_mod", client_mods / "gamegen_position")
        (client_mods / "mods.conf").write_text("load_mod_gamegen_position = true\n")
        (self.world / "world.mt").write_text(
            "gameid = minetest\nbackend = sqlite3\nplayer_backend = files\nauth_backend = files\n"
            "load_mod_gamegen = true\n"
        )
        settings = client_settings(self.config, world_seed)
        (self.home / "client.conf").write_text("".join(f"{k} = {v}\n" for k, v in settings.items()))

    def _start(self, game: Path, hook: Path) -> None:
        # Beside the game, whose working folder that is: the loader of libraries reads spaces as the end of a path.
        shutil.copyfile(hook, self.home / HOOK_FILE)
        self.display = self._start_display()
        with short_path(self.home) as home:
            self._connection = self._run(game, home / "hook.sock")
        self._connection.settimeout(self.config.start_timeout_s)

    def _run(self, game: Path, socket_path: Path) -> socket.socket:
        """Runs the game; returns the hook's connection."""
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(socket_path))
        listener.listen(1)
        listener.settimeout(self.config.start_timeout_s)
        environment = os.environ | {
            "HOME": str(self.home),
            "DISPLAY": f":{self.display}",
            "XAUTHORITY": str(self.home / AUTHORITY_FILE),
            "LD_PRELOAD": f"./{HOOK_FILE}",
            "GAMEGEN_HOOK_SOCKET": str(socket_path),
            "GAMEGEN_HOOK_WIDTH": str(self.config.width),
            "GAMEGEN_HOOK_HEIGHT": str(self.config.height),
            # Software drawing in the calling thread: helpers would fight for the one core a recorder has.
            "LIBGL_ALWAYS_SOFTWARE": "1",
            "LP_NUM_THREADS": "0",
        }
        command = [str(game), "--config", str(self.home / "client.conf"), "--world", str(self.world)]
        command += ["--gameid", "minetest", "--go", "--logfile", str(self.home / "log.txt")]
        output_path = self.home / "out.txt"
        with output_path.open("w") as output:
            self._processes.append(
                subprocess.Popen(
                    command, env=environment, cwd=self.home, stdout=output, stderr=subprocess.STDOUT
                )
            )
        self._output = output_path.open(errors="replace")
        try:
            connection, _ = listener.accept()
        except TimeoutError as error:
            raise ClientError(
                f"the game opened no window in {self.config.start_timeout_s} s{self.log()}"
            ) from error
        finally:
            listener.close()
        return connection

    def _start_display(self) -> int:
        self._write_authority()
        read_end, write_end = os.pipe()
        screen = f"{self.config.width}x{self.config.height}x24"
        command = [
            "Xvfb",
            "-displayfd",
            str(write_end),
            "-screen",
            "0",
            screen,
            "-nolisten",
            "tcp",
            # Other users of this machine neither see the game nor press its keys.
            "-auth",
            str(self.home / AUTHORITY_FILE),
            "-terminate",
        ]
        self._processes.append(
            subprocess.Popen(
                command, pass_fds=[write_end], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
            )
        )
        os.close(write_end)
        with os.fdopen(read_end) as pipe:
            number = pipe.readline().strip()
        if not number:
            raise ClientError("Xvfb did not start: install the package xvfb")
        return int(number)

    def _write_authority(self) -> None:
        """Writes a random cookie that lets clients of any host and display in, as libXau reads it."""
        any_host = 0xFFFF
        fields = (b"", b"", b"MIT-MAGIC-COOKIE-1", secrets.token_bytes(16))
        entry = struct.pack(">H", any_host) + b"".join(struct.pack(">H", len(f)) + f for f in fields)
        with write_atomically(self.home / AUTHORITY_FILE, mode=0o600) as partial:
            partial.write_bytes(entry)

    def log(self) -> str:
        """The last lines of the game's log, for messages."""
        out = self.home / "out.txt"
        lines = out.read_text(errors="replace").splitlines() if out.exists() else []
        return "\n" + "\n".join(line for line in lines if POSITION not in line)[-1500:]

    def position(self) -> tuple[float, float, float]:
        """Where the player is in the newest frame, in nodes, as the client's own mod says before it is drawn."""
        assert self._output is not None
        for line in self._output.readlines():
            if POSITION in line:
                x, y, z = map(float, line.partition(POSITION)[2].split())
                self._position = (x, y, z)
        return self._position

    def receive(self) -> Capture | None:
        """The frame that waits with its inverse depth; None if the last command asked for none."""
        width, height = struct.unpack("2i", self._read(8))
        if not width:
            return None
        pixels = np.frombuffer(self._read(width * height * 3), np.uint8)
        rows, columns = height // DEPTH_CELL_PX, width // DEPTH_CELL_PX
        depth = np.frombuffer(self._read(rows * columns), np.uint8)
        # OpenGL's first row is the lowest.
        return Capture(pixels.reshape(height, width, 3)[::-1], depth.reshape(rows, columns)[::-1])

    def send(
        self,
        keys: Iterable[str] = (),
        mouse: tuple[int, int] = (0, 0),
        attack: bool = False,
        capture: bool = True,
        step_us: int = FRAME_US,
        fog_end_nodes: int = 0,
        virtual_clock: bool = True,
    ) -> None:
        """Sets the held keys, moves the mouse (pixels) and has the next frame drawn `step_us` later."""
        down = {KEYSYMS[key] for key in keys} | ({LEFT_BUTTON} if attack else set())
        events = [(key, 0) for key in self._down - down] + [(key, 1) for key in down - self._down]
        self._down = down
        flags = CAPTURE * capture | VIRTUAL_CLOCK * virtual_clock
        self._send(flags, step_us, mouse, fog_end_nodes, events)

    def skip_frame(
        self, step_us: int, fog_end_nodes: int, press: str | None = None, release: str | None = None
    ) -> None:
        """Draws a frame nobody sees, with the held keys as they are but for one that goes down or up."""
        events = [(KEYSYMS[key], down) for key, down in ((press, 1), (release, 0)) if key]
        self._send(VIRTUAL_CLOCK, step_us, (0, 0), fog_end_nodes, events)
        self.receive()

    def _send(
        self,
        flags: int,
        step_us: int,
        mouse: tuple[int, int],
        fog_end_nodes: int,
        events: list[tuple[int, int]],
    ) -> None:
        assert self._connection is not None
        message = struct.pack("6i", flags, step_us, *mouse, fog_end_nodes, len(events))
        self._connection.sendall(message + b"".join(struct.pack("2i", *event) for event in events))

    def _read(self, size: int) -> bytearray:
        assert self._connection is not None
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            count = self._connection.recv_into(view[done:])
            if not count:
                time.sleep(0.2)  # let the log reach the disk
                raise ClientError(f"the game ended unexpectedly{self.log()}")
            done += count
        return data

    def close(self) -> None:
        """Ends the game and its display and removes the world."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._output is not None:
            self._output.close()
            self._output = None
        for process in reversed(self._processes):
            process.terminate()
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self.home, ignore_errors=True)
