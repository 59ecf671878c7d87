"""What players of a running server get: frames a second, gaps, and how long a key takes to be seen.

gamegen bench serve http://127.0.0.1:8000 --sessions 2 --seconds 60
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import websockets
from rich.console import Console
from rich.table import Table

from deployments.wire import FrameHeader, unpack_frame
from gamegen.bench.paired import summary_ms

UNDERRUN_S = 0.25
"""A gap between frames from which on a player notices that the picture stops."""
SETTLING_S = 3.0
KEYS = ("w", "left", "d", "right", "s", "a")
_KEY_HELD_S = (0.4, 1.2)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Played:
    """One player's stream: when each frame came (seconds), what its header said, and when each key went down."""

    frames: list[tuple[float, FrameHeader]] = field(default_factory=list)
    pressed: dict[float, float] = field(default_factory=dict)

    def settled(self, since_s: float) -> Played:
        """What came after the first moments, when the first chunks fill the cache."""
        frames = [(at, header) for at, header in self.frames if at >= since_s]
        return Played(frames, {stamp: at for stamp, at in self.pressed.items() if at >= since_s})

    def gaps_s(self) -> np.ndarray:
        """Times between frames."""
        return np.diff([at for at, _ in self.frames])

    def answers_s(self) -> list[tuple[float, FrameHeader]]:
        """For each key, the time from its press to the first frame drawn with it, and that frame's header."""
        found: dict[float, tuple[float, FrameHeader]] = {}
        for at, header in self.frames:
            stamp = header.control_timestamp
            if stamp in self.pressed and stamp not in found:
                found[stamp] = (at - self.pressed[stamp], header)
        return list(found.values())


def begin(url: str, number: int) -> dict[str, Any]:
    """Opens a session; raises what `urllib` raises if the server refuses."""
    body = json.dumps({"prompt": "forest at noon", "seed": number}).encode()
    request = urllib.request.Request(
        f"{url}/v1/sessions", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)


async def play(url: str, session: dict[str, Any], seconds: float, seed: int) -> Played:
    """Plays a session with keys pressed at random moments."""
    played = Played()
    address = url.replace("http", "ws", 1) + session["stream_url"]
    async with websockets.connect(address, max_size=None) as socket:
        await socket.send(json.dumps({"type": "hello", "token": session["resume_token"]}))
        typing = asyncio.create_task(_type(socket, played, random.Random(seed)))
        ends = time.monotonic() + seconds
        try:
            while (left := ends - time.monotonic()) > 0:
                try:
                    message = await asyncio.wait_for(socket.recv(), left)
                except TimeoutError:
                    break
                if isinstance(message, bytes):
                    header, _ = unpack_frame(message)
                    played.frames.append((time.monotonic(), header))
                    await socket.send(json.dumps({"type": "seen", "sequence": header.sequence}))
        finally:
            typing.cancel()
    return played


async def _type(socket: websockets.ClientConnection, played: Played, chance: random.Random) -> None:
    """Holds one key after the other; every press has a timestamp of its own."""
    stamp = 0.0
    while True:
        key = chance.choice(KEYS)
        for down in (True, False):
            stamp += 1
            if down:
                played.pressed[stamp] = time.monotonic()
            change = {"keys": [key], "state": down}
            await socket.send(json.dumps({"type": "control", "timestamp": stamp, "keyboard": change}))
            await asyncio.sleep(chance.uniform(*_KEY_HELD_S))


@dataclass(frozen=True)
class Figures:
    """What all players together saw."""

    sessions: int
    seconds: float
    frames_per_s: float
    gaps_ms: dict[str, float]
    underruns: int
    longest_gap_ms: float
    dropped: int
    key_to_frame_ms: dict[str, float]
    beyond_pacing_ms: dict[str, float]
    stages_ms: dict[str, float]


def figures(players: list[Played], seconds: float) -> Figures:
    """Over all players; `frames_per_s` is one player's mean. Raises ValueError where somebody saw no frames."""
    if any(len(p.frames) < 2 for p in players):
        raise ValueError("a session showed no frames: is the server overloaded? See its log")
    gaps = np.concatenate([p.gaps_s() for p in players])
    answers = [answer for p in players for answer in p.answers_s()]
    headers = [header for p in players for _, header in p.frames]
    sequences = [[header.sequence for _, header in p.frames] for p in players]
    taken = np.array([at for at, _ in answers]) if answers else np.full(1, np.nan)
    # A chunk is begun as late as its first frame's turn allows: what a key waits until then is the pace of the game.
    waited = np.array([h.wait_ms / 1e3 for _, h in answers]) if answers else np.full(1, np.nan)
    step, decode = (np.mean([getattr(h, name) for h in headers]) for name in ("step_ms", "decode_ms"))
    return Figures(
        len(players),
        seconds,
        float(np.mean([1 / p.gaps_s().mean() for p in players])),
        summary_ms(gaps),
        int((gaps > UNDERRUN_S).sum()),
        float(gaps.max() * 1e3),
        sum(s[-1] - s[0] + 1 - len(s) for s in sequences),
        summary_ms(taken),
        summary_ms(taken - waited),
        {
            "until the next chunk begins": float(waited.mean() * 1e3),
            "step": float(step),
            "decode": float(decode),
            "waiting for the frame's turn, and on the way": float(
                (taken - waited).mean() * 1e3 - step - decode
            ),
        },
    )


def table(result: Figures) -> Table:
    """For people."""
    shown = Table("", "", title=f"{result.sessions} players for {result.seconds:.0f} s")
    rows = {
        "frames a second, each": f"{result.frames_per_s:.2f}",
        "time between frames, p50 / p95 / p99": _three(result.gaps_ms),
        f"gaps over {UNDERRUN_S * 1e3:.0f} ms": f"{result.underruns}, longest {result.longest_gap_ms:.0f} ms",
        "frames dropped": str(result.dropped),
        "from key to its first frame, p50 / p95 / p99": _three(result.key_to_frame_ms),
        "the same, once its chunk begins": _three(result.beyond_pacing_ms),
        **{f"  of it: {name}": f"{ms:.0f} ms" for name, ms in result.stages_ms.items()},
    }
    for name, value in rows.items():
        shown.add_row(name, value)
    return shown


def _three(ms: dict[str, float]) -> str:
    return " / ".join(f"{ms[name]:.0f}" for name in ("p50", "p95", "p99")) + " ms"


async def measure(url: str, sessions: int, seconds: float) -> Figures:
    """Plays so many sessions at once."""
    opened = [begin(url, number) for number in range(sessions)]
    began = time.monotonic()
    players = await asyncio.gather(
        *(play(url, session, SETTLING_S + seconds, number) for number, session in enumerate(opened))
    )
    for session in opened:
        request = urllib.request.Request(f"{url}/v1/sessions/{session['id']}", method="DELETE")
        urllib.request.urlopen(request, timeout=30).close()
    return figures([p.settled(began + SETTLING_S) for p in players], seconds)


@app.command()
def main(
    url: Annotated[str, typer.Argument(help="a running server")] = "http://127.0.0.1:8000",
    sessions: Annotated[int, typer.Option(min=1, help="players at once")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="how long they play")] = 30,
    json_file: Annotated[Path | None, typer.Option("--json", help="file for the same figures")] = None,
) -> None:
    """Plays on a running server and measures what players get.

    Example: gamegen bench serve http://127.0.0.1:8000 --sessions 2 --seconds 60
    """
    try:
        result = asyncio.run(measure(url.rstrip("/"), sessions, seconds))
    except (ValueError, OSError) as error:
        print(f"gamegen: {url}: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    Console().print(table(result))
    if json_file:
        json_file.write_text(json.dumps(result.__dict__ | {"command": sys.argv}, indent=2) + "\n")


if __name__ == "__main__":
    app()
