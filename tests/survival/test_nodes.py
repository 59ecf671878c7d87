"""Sessions outlive a worker node and the cluster's head, killed while people play."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import simplejpeg

from cluster.recovery.local_cluster import HEAD, LocalCluster, local_cluster
from deployments.settings import CLUSTER_SETTINGS, load_settings
from gamegen.media.images import encode_jpegs
from gamegen.replay.replay import draw
from gamegen.sessions.log_file import from_json
from gamegen.world import World
from loadtest.load.server_memory import processes
from tests.serving import PATIENCE_S
from tests.survival.player import Player

FRAMES = 48
"""Two seconds of play."""


@pytest.fixture(scope="module")
def cluster(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """The settings of clusters, but that places are offered however late chunks are.

    On a busy machine a player would wait for one as long as the others' chunks come late.
    """
    settings = dataclasses.asdict(load_settings(CLUSTER_SETTINGS))
    settings["world"]["most_late_share"] = 1
    file = tmp_path_factory.mktemp("settings") / "cluster.yaml"
    file.write_text(json.dumps(settings))
    with local_cluster(str(file), str(tiny_model)) as cluster:
        cluster.serve()
        yield cluster
    left = [p for p in processes() if str(cluster.folder) in p.command]
    assert not left, left


def begin(address: str, seed: int) -> dict:
    response = httpx.post(
        f"{address}/v1/sessions", json={"prompt": "a lake", "seed": seed}, timeout=PATIENCE_S
    )
    assert response.status_code == 201, response.text
    return response.json()


async def play_on(players: list[Player]) -> None:
    """Returns when everybody got two seconds more."""
    wanted = [len(player.frames) + FRAMES for player in players]
    give_up_at = time.monotonic() + PATIENCE_S
    while any(len(player.frames) < count for player, count in zip(players, wanted, strict=True)):
        assert time.monotonic() < give_up_at, [(len(p.frames), p.closed) for p in players]
        await asyncio.sleep(0.1)


@pytest.mark.cluster
async def test_sessions_go_on_when_a_node_and_the_head_are_killed(cluster, tiny_model):
    """Each is shown what its log leads to, in order, but for chunks that were on their way from the node."""
    first, second = cluster.urls
    players = [
        Player([first, second], await asyncio.to_thread(begin, first, 1)),
        Player([second, first], await asyncio.to_thread(begin, second, 2)),
    ]
    playing = [asyncio.create_task(player.until(10**6)) for player in players]
    await play_on(players)

    # With it go an ingress, a world and a decoder replica, and the proxy of one of the players.
    await asyncio.to_thread(cluster.kill_node, cluster.workers[0])
    await play_on(players)
    await asyncio.to_thread(cluster.kill_node, HEAD)
    # Nobody needs a head to play on, or to begin.
    await play_on(players)
    late = await asyncio.to_thread(begin, second, 3)
    await asyncio.to_thread(cluster.start_node, HEAD)
    await play_on(players)
    await Player([second], late).until(FRAMES)

    for task in playing:
        task.cancel()
    await asyncio.gather(*playing, return_exceptions=True)
    world = World.load(str(tiny_model))
    quality = load_settings(CLUSTER_SETTINGS).decoder.jpeg_quality
    for player in players:
        numbers = sorted(player.frames)
        skipped = set(range(numbers[-1] // 4)) - {number // 4 for number in numbers}
        assert len(skipped) <= 3, skipped
        log = from_json(
            httpx.get(f"{second}/v1/sessions/{player.session['id']}/log", timeout=PATIENCE_S).text
        )
        drawn = np.concatenate([*draw(world, log)])
        for number, pixels in player.pixels().items():
            shown = simplejpeg.decode_jpeg(encode_jpegs(drawn[number : number + 1], quality)[0])
            # Who shares a forward pass differs by rounding.
            assert np.abs(pixels.astype(int) - shown).mean() < 1, number
