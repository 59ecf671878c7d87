"""Trials: parts of a running cluster are killed in turn while simulated players play."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cluster.recovery.local_cluster import HEAD, LocalCluster
from loadtest.players.key_tracks import load_tracks
from loadtest.players.play_record import PlayerStay
from loadtest.players.socket_player import Server, SocketPlayer

REPLICAS = {"world": "World", "decoder": "Decoder", "ingress": "Ingress"}
KINDS = (*REPLICAS, "worker", "head")
"""Parts that can be killed: a replica of one of three deployments, a worker node, or the head."""
_FOREVER_S = 24 * 3600.0
_SETTLE_S = 3.0
_WATCH_INTERVAL_S = 0.1
_FRAMES = 24
"""Frames after which a player counts as playing again."""


@dataclass(frozen=True, kw_only=True)
class KillOutcome:
    """Times of one kill (`time.monotonic`): the kill, all replicas and proxies healthy, all players playing again."""

    kind: str
    at_s: float
    whole_s: float
    until_s: float


@dataclass(frozen=True)
class _Playing:
    player: SocketPlayer
    task: asyncio.Task[PlayerStay]


@dataclass(frozen=True)
class Trials:
    """All kills of a run, and the stays of its players."""

    kills: list[KillOutcome]
    stays: list[PlayerStay]


class Trial:
    """Plays on a cluster and kills parts of it in turn; `say` is called with the progress."""

    def __init__(self, cluster: LocalCluster, say: Callable[[str], None] = lambda _: None) -> None:
        self._cluster = cluster
        self._say = say
        self._servers = [Server(url) for url in cluster.urls]
        self._playing: list[_Playing] = []
        self._stop = asyncio.Event()

    async def run(self, kinds: Sequence[str], kills: int, sessions: int) -> Trials:
        """Kills each kind `kills` times; raises ValueError, OSError or RuntimeError if nobody can play."""
        for number in range(sessions):
            await self._begin(number)
        await self._until_all_play()
        done = []
        for kind in kinds:
            for number in range(kills):
                await asyncio.sleep(_SETTLE_S)
                self._say(f"{kind}, {number + 1} of {kills}")
                done.append(await self._kill(kind, number))
        self._stop.set()
        return Trials(done, [await playing.task for playing in self._playing])

    async def _begin(self, number: int) -> None:
        tracks = load_tracks()
        track = tracks[number % len(tracks)]
        first = number % len(self._servers)
        servers = [*self._servers[first:], *self._servers[:first]]
        session = await asyncio.to_thread(servers[0].begin, track.prompt, number)
        player = SocketPlayer(servers[0], session, track, number, others=servers[1:])
        task = asyncio.create_task(player.play(time.monotonic() + _FOREVER_S, self._stop))
        self._playing.append(_Playing(player, task))

    async def _kill(self, kind: str, number: int) -> KillOutcome:
        cluster = self._cluster
        worker = cluster.workers[number % len(cluster.workers)]
        at_s = time.monotonic()
        if kind in REPLICAS:
            await asyncio.to_thread(cluster.kill_replica, REPLICAS[kind], worker)
        elif kind == "worker":
            await asyncio.to_thread(cluster.kill_node, worker)
            # A machine that is lost is not back before those who played on it are.
            await self._until_all_play()
            await asyncio.to_thread(cluster.start_node, worker)
        else:
            await asyncio.to_thread(cluster.kill_node, HEAD)
            await asyncio.to_thread(cluster.start_node, HEAD)
        await asyncio.to_thread(cluster.serve, False)
        whole_s = time.monotonic()
        await self._until_all_play()
        return KillOutcome(kind=kind, at_s=at_s, whole_s=whole_s, until_s=time.monotonic())

    async def _until_all_play(self) -> None:
        """Waits until every player gets frames again, or is lost."""
        before = [playing.player.num_frames for playing in self._playing]
        while any(
            playing.player.num_frames < known + _FRAMES and not playing.task.done()
            for playing, known in zip(self._playing, before, strict=True)
        ):
            await asyncio.sleep(_WATCH_INTERVAL_S)
