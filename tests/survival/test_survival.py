"""Sessions outlive every replica: killed, replaced, started and stopped while somebody plays."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from ray import serve

from deployments.app import NAME, build_app
from deployments.places import Places
from deployments.settings import ServeSettings
from tests.serving import PATIENCE_S, served, tiny_settings
from tests.survival.player import Player
from tests.test_first_frames import video


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> ServeSettings:
    """Two ingress replicas, and one world replica a player, up to three."""
    tiny = tiny_settings(tiny_model)
    world = dataclasses.replace(
        tiny.world, slots=1, max_replicas=3, upscale_delay_s=0.5, downscale_delay_s=3.0
    )
    return dataclasses.replace(tiny, world=world, ingress=dataclasses.replace(tiny.ingress, replicas=2))


@pytest.fixture(scope="module")
def address(serve_address: str, places: Places, settings: ServeSettings) -> Iterator[str]:
    with served(settings, places):
        yield serve_address


@pytest.fixture
def begin(address: str) -> Callable[..., dict]:
    def begin(seed: int, **more: str) -> dict:
        give_up_at = time.monotonic() + PATIENCE_S
        while True:
            body = {"prompt": "a green forest", "seed": seed, **more}
            response = httpx.post(f"{address}/v1/sessions", json=body, timeout=PATIENCE_S)
            if response.status_code == 201:
                return response.json()
            assert time.monotonic() < give_up_at, response.text
            time.sleep(0.5)

    return begin


def replicas(deployment: str) -> list:
    names = ray.util.list_named_actors(all_namespaces=True)
    mine = [n for n in names if n["name"].startswith(f"SERVE_REPLICA::{NAME}#{deployment}#")]
    found = []
    for one in mine:
        # It may have ended since.
        with contextlib.suppress(ValueError):
            found.append(ray.get_actor(one["name"], namespace=one["namespace"]))
    return found


async def undisturbed(
    address: str, begin: Callable[..., dict], seed: int, num_frames: int, **more: str
) -> dict:
    player = Player([address], begin(seed, **more))
    await player.until(num_frames)
    httpx.delete(f"{address}/v1/sessions/{player.session['id']}", timeout=PATIENCE_S)
    return player.pixels()


VIDEO = {"video": base64.b64encode(video(30)).decode()}


@pytest.mark.parametrize(
    ("deployment", "more"),
    [("Ingress", {}), ("Decoder", {}), ("World", {}), ("Ingress", VIDEO), ("World", VIDEO)],
    ids=["ingress", "decoder", "world", "ingress after a video", "world after a video"],
)
async def test_a_session_goes_on_when_replicas_are_killed(address, begin, deployment, more):
    """And shows what it would have shown: nothing is drawn twice or left out but for what was on its way."""
    expected = await undisturbed(address, begin, 31, 60, **more)
    player = Player([address], begin(31, **more))
    async for _ in player.play():
        if len(player.frames) == 17:
            for actor in replicas(deployment):
                ray.kill(actor)
        if len(player.frames) == 52:
            break
    httpx.delete(f"{address}/v1/sessions/{player.session['id']}", timeout=PATIENCE_S)
    numbers = sorted(player.frames)
    missed = set(range(numbers[-1] + 1)) - set(numbers)
    # At most the chunks that had been drawn and were on their way.
    assert len(missed) <= (12 if deployment == "Ingress" else 0), missed
    for number, pixels in player.pixels().items():
        if number in expected:
            np.testing.assert_array_equal(pixels, expected[number])


@pytest.mark.parametrize("directly", [True, False])
async def test_a_new_version_of_the_ingress_costs_players_a_reconnect(
    address, begin, settings, places, directly
):
    player = Player([address], begin(32), directly)
    newer = dataclasses.replace(settings.ingress, idle_timeout_s=1234 + directly)
    before = {actor._actor_id for actor in replicas("Ingress")}

    def update() -> None:
        serve.run(
            build_app(dataclasses.replace(settings, ingress=newer), places), name=NAME, route_prefix="/"
        )

    updating = asyncio.Future[None]()
    async for frame in player.play():
        if len(player.frames) == 9:
            updating = asyncio.create_task(asyncio.to_thread(update))
        if updating.done() and 4503 in player.closed and frame.header.frame == 3:
            break
    await updating
    assert not before & {actor._actor_id for actor in replicas("Ingress")}
    assert "migrate" in player.kinds
    numbers = sorted(player.frames)
    assert len(set(range(numbers[-1] + 1)) - set(numbers)) <= 24
    httpx.delete(f"{address}/v1/sessions/{player.session['id']}", timeout=PATIENCE_S)


async def test_world_replicas_come_and_go_with_the_players(address, begin):
    players = [Player([address], begin(40 + i)) for i in range(3)]
    stay = asyncio.Event()

    async def play(player: Player, leave: asyncio.Event) -> None:
        async for _ in player.play():
            if leave.is_set():
                break
        httpx.delete(f"{address}/v1/sessions/{player.session['id']}", timeout=PATIENCE_S)

    go = asyncio.Event()
    tasks = [asyncio.create_task(play(p, stay if i == 0 else go)) for i, p in enumerate(players)]
    await until(lambda: len(replicas("World")) == 3 and all(len(p.frames) > 12 for p in players))
    go.set()
    await asyncio.gather(*tasks[1:])
    await until(lambda: len(replicas("World")) == 1)
    seen = len(players[0].frames)
    await until(lambda: len(players[0].frames) > seen + 12)
    stay.set()
    await tasks[0]
    numbers = sorted(players[0].frames)
    assert numbers == list(range(len(numbers))), players[0].closed
    assert not players[0].closed


async def until(happened: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 2 * PATIENCE_S
    while not happened():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.3)
