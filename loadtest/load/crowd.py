"""A crowd of simulated players in processes of their own, undisturbed by the process that reports on them."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import signal
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from multiprocessing.connection import Connection, wait
from typing import Any

from deployments.stream.client_messages import Format
from gamegen.constants import FPS
from loadtest.load.arrivals import Visit, schedule
from loadtest.players.key_tracks import load_tracks
from loadtest.players.play_record import PlayerStay
from loadtest.players.socket_player import RefusedError, Server, SocketPlayer

_REPORT_INTERVAL_S = 0.5
_FAILED_RETRY_S = 2.0
_END_ATTEMPTS = 3
_START_DELAY_S = 0.2
_USUAL = {"fps": FPS, "format": "jpeg"}


@dataclass(frozen=True, kw_only=True)
class LoadConfig:
    """Configuration of a run; `arrival_rate` is in players a second."""

    url: str
    sessions: int
    arrival_rate: float
    minutes: float
    mean_stay_s: float = 120.0
    seed: int = 0
    processes: int = 1
    fps: int = FPS
    frame_format: Format = "jpeg"

    @property
    def settings(self) -> dict[str, Any]:
        """Stream settings that players ask for: those that are not the server's defaults."""
        asked = {"fps": self.fps, "format": self.frame_format}
        return {name: value for name, value in asked.items() if value != _USUAL[name]}

    def visits(self) -> tuple[Visit, ...]:
        """All stays of the run; raises ValueError for values that allow none."""
        return schedule(self.sessions, self.arrival_rate, self.minutes, self.mean_stay_s, self.seed)


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts so far; `players` are those with a session now."""

    players: int = 0
    frames: int = 0
    opened: int = 0
    refused: int = 0
    failed: int = 0
    turned_away: int = 0
    reconnects: int = 0
    lost: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


@dataclass(frozen=True, kw_only=True)
class CrowdResult:
    """Counts and stays of a crowd, and the times at which it began and ended (`time.monotonic`)."""

    counts: Counts
    stays: tuple[PlayerStay, ...]
    began_s: float
    ended_s: float


@dataclass(kw_only=True)
class _Share:
    """The players of one process."""

    config: LoadConfig
    began_s: float
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    playing: dict[int, SocketPlayer] = field(default_factory=dict)
    stays: list[PlayerStay] = field(default_factory=list)
    told: Counts = Counts()
    """Everything but `players`, and `frames` and `reconnects` of those who still play."""

    def __post_init__(self) -> None:
        self._server = Server(self.config.url)
        self._tracks = load_tracks()

    def counts(self) -> Counts:
        """The counts now, players that still play included."""
        players = self.playing.values()
        frames = sum(player.num_frames for player in players)
        reconnects = sum(player.counts["reconnects"] for player in players)
        return self.told + Counts(players=len(self.playing), frames=frames, reconnects=reconnects)

    async def visit(self, visit: Visit) -> None:
        """One player's stay, from arrival to leaving."""
        await self._pause_until(self.began_s + visit.arrives_s)
        if self.stop.is_set():
            return
        leaves_s = self.began_s + visit.leaves_s
        track = self._tracks[visit.number % len(self._tracks)]
        session = await self._enter(track.prompt, visit.number, leaves_s)
        if session is None:
            return
        seed = self.config.seed * 1_000_003 + visit.number
        player = SocketPlayer(self._server, session, track, seed, self.config.settings)
        self.playing[visit.number] = player
        played = await player.play(leaves_s, self.stop)
        was_there = await self._leave(session["id"])
        if played.lost is None and not was_there:
            played = replace(played, lost="it was gone when its player left")
        del self.playing[visit.number]
        self.stays.append(played)
        lost = int(played.lost is not None)
        self.told += Counts(frames=len(played.frames), reconnects=played.reconnects, lost=lost)

    async def _enter(self, prompt: str, seed: int, until_s: float) -> dict[str, Any] | None:
        """Asks for a session until the server opens one; None if there was none until the player leaves."""
        chance = random.Random(seed)
        while not self.stop.is_set() and time.monotonic() < until_s:
            try:
                session = await asyncio.to_thread(self._server.begin, prompt, seed)
            except RefusedError as error:
                self.told += Counts(refused=1)
                retry_s = error.retry_after_s
            except OSError:
                self.told += Counts(failed=1)
                retry_s = _FAILED_RETRY_S
            else:
                self.told += Counts(opened=1)
                return session
            # Jitter keeps players that were refused together from coming back together.
            await self._pause_until(min(until_s, time.monotonic() + retry_s * chance.uniform(1.0, 1.2)))
        self.told += Counts(turned_away=1)
        return None

    async def _leave(self, session_id: str) -> bool:
        """Deletes a session; returns whether the server still had it."""
        for attempt in range(_END_ATTEMPTS):
            try:
                return await asyncio.to_thread(self._server.end, session_id)
            except OSError:
                await asyncio.sleep(_FAILED_RETRY_S * (attempt + 1 < _END_ATTEMPTS))
        return False

    async def _pause_until(self, at_s: float) -> None:
        """Waits until a time, or until the run is stopped."""
        try:
            async with asyncio.timeout(max(0.0, at_s - time.monotonic())):
                await self.stop.wait()
        except TimeoutError:
            return


async def _play_share(pipe: Connection, config: LoadConfig, number: int) -> _Share:
    began_s: float = pipe.recv()
    visits = config.visits()[number :: config.processes]
    # Requests block a thread each, and a crowd may well arrive at once.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(config.sessions + 1))
    share = _Share(config=config, began_s=began_s)
    playing = asyncio.gather(*(share.visit(visit) for visit in visits))
    while not playing.done():
        await asyncio.wait({playing}, timeout=_REPORT_INTERVAL_S)
        if pipe.poll():
            share.stop.set()
            pipe.recv()
        pipe.send(share.counts())
    playing.result()
    return share


def _work(pipe: Connection, config: LoadConfig, number: int) -> None:
    # Ctrl-C reaches the whole process group; the parent process sends "stop" instead.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe.send(Counts())
    try:
        share = asyncio.run(_play_share(pipe, config, number))
        pipe.send((share.counts(), share.stays))
    except (EOFError, BrokenPipeError):
        return
    except Exception as error:
        pipe.send(error)
        raise


def run(config: LoadConfig, watch: Callable[[Counts], None], is_stopped: Callable[[], bool]) -> CrowdResult:
    """Plays a run; `watch` is called about twice a second, and all players leave once `is_stopped` returns true.

    Raises ValueError when what the server sends cannot be understood.
    """
    config.visits()
    context = multiprocessing.get_context("spawn")
    ends = [context.Pipe() for _ in range(config.processes)]
    workers = [
        context.Process(target=_work, args=(theirs, config, i), daemon=True)
        for i, (_, theirs) in enumerate(ends)
    ]
    pipes = [ours for ours, _ in ends]
    try:
        for worker, (_, theirs) in zip(workers, ends, strict=True):
            worker.start()
            theirs.close()
        for pipe in pipes:
            pipe.recv()
        began_s = time.monotonic() + _START_DELAY_S
        for pipe in pipes:
            pipe.send(began_s)
        shares = _follow(pipes, watch, is_stopped)
    finally:
        for pipe in pipes:
            pipe.close()
        for worker in workers:
            worker.join()
    counts = sum((counts for counts, _ in shares), Counts())
    stays = tuple(stay for _, stays in shares for stay in stays)
    return CrowdResult(counts=counts, stays=stays, began_s=began_s, ended_s=time.monotonic())


def _follow(
    pipes: Sequence[Connection], watch: Callable[[Counts], None], is_stopped: Callable[[], bool]
) -> list[tuple[Counts, list[PlayerStay]]]:
    """Reads the workers' reports until all are done."""
    latest = {pipe: Counts() for pipe in pipes}
    done: dict[Connection, tuple[Counts, list[PlayerStay]]] = {}
    was_told = False
    while len(done) < len(pipes):
        for ready in wait([pipe for pipe in pipes if pipe not in done], _REPORT_INTERVAL_S):
            assert isinstance(ready, Connection)
            try:
                message = ready.recv()
            except EOFError:
                raise ValueError("a process of players ended early, see what it wrote above") from None
            if isinstance(message, Exception):
                raise ValueError(f"a player gave up: {message}") from message
            if isinstance(message, tuple):
                done[ready], message = message, message[0]
            latest[ready] = message
        if is_stopped() and not was_told:
            was_told = True
            for pipe in pipes:
                if pipe not in done:
                    pipe.send("stop")
        watch(sum(latest.values(), Counts()))
    return [done[pipe] for pipe in pipes]
