"""Cost of serving: alternating rounds of players on a server and of the same model in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from deployments.settings import load_settings
from gamegen.bench.bare_play import BarePlay, BareRun
from gamegen.engine.variants import Variant
from gamegen.models.text import compose_prompt, load_text_encoder
from loadtest.players.key_tracks import load_tracks
from loadtest.players.socket_player import Server

ROUNDS = 3
"""Rounds of each kind, in turns, so that other load on the machine meets both."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Frames a second of all players together, and milliseconds from a chunk's start to its first frame (p50).

    Served frames are timed where the player gets them, bare ones where the JPEG file is done.
    """

    served_fps: list[float]
    bare_fps: list[float]
    served_first_ms: list[float]
    bare_first_ms: list[float]

    @property
    def share(self) -> float:
        """Ratio of served to bare frames a second."""
        return float(np.mean(self.served_fps) / np.mean(self.bare_fps))

    @property
    def added_ms(self) -> float:
        """Milliseconds by which a served frame comes later than a bare one."""
        return float(np.mean(self.served_first_ms) - np.mean(self.bare_first_ms))

    def rows(self) -> dict[str, str]:
        """Rows of the table: a name and its value."""
        served, bare = np.mean(self.served_fps), np.mean(self.bare_fps)
        served_ms, bare_ms = np.mean(self.served_first_ms), np.mean(self.bare_first_ms)
        return {
            "frames a second, all together, served / bare": f"{served:.2f} / {bare:.2f} ({self.share:.1%})",
            "from a chunk's beginning to its first frame, p50, served / bare": f"{served_ms:.0f} / {bare_ms:.0f} ms "
            f"({self.added_ms:+.0f})",
        }


def bare_play(url: str, sessions: int) -> BarePlay:
    """The served model in this process; raises OSError or ValueError if the server does not tell which it is."""
    variant = Variant.parse(Server(url).status()["model"]["model"])
    prompt = compose_prompt(load_tracks()[0].prompt, "first")
    states = load_text_encoder(variant.config().text_encoder).encode([prompt])[0]
    settings = load_settings()
    return BarePlay(variant, states, sessions, settings.world.engine_threads, settings.decoder.threads)


async def compare(
    bare: BarePlay, serve: Callable[[float], Awaitable[tuple[float, float]]], seconds: float
) -> Cost:
    """Measures both in turns; `serve(seconds)` plays on the server and returns frames a second and p50 in ms."""
    served: list[tuple[float, float]] = []
    alone: list[BareRun] = []
    for _ in range(ROUNDS):
        alone.append(await asyncio.to_thread(bare.run, seconds / ROUNDS))
        served.append(await serve(seconds / ROUNDS))
    return Cost(
        served_fps=[fps for fps, _ in served],
        bare_fps=[run.frames_per_s for run in alone],
        served_first_ms=[first_ms for _, first_ms in served],
        bare_first_ms=[1e3 * float(np.median(run.first_frames_s)) for run in alone],
    )


def table(cost: Cost, sessions: int) -> Table:
    """Table of the cost, for the terminal."""
    shown = Table("", "", title=f"{sessions} players, in turns with the bare engine")
    for name, value in cost.rows().items():
        shown.add_row(name, value)
    return shown
