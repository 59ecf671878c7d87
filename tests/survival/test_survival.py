"""Sessions outlive every replica: killed, replaced, started and stopped while somebody plays."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import numpy as np
import pytest
import ray
from ray import serve

from deployments.app import NAME, build_app
from deployments.settings import ServeSettings
from deployments.stores import StoreUrls
from gamegen.constants import FPS
from tests.media.test_first_frames import video
from tests.serving import PATIENCE_S, Application, tiny_settings
from tests.survival.player import Player

SLOW_FPS = 12
"""The frame rate of players who only wait for replicas to start: they leave the processors to these."""


@pytest.fixture(scope="module")
def settings(tiny_model: Path) -> ServeSettings:
    """Two ingress replicas, and one world replica a player, up to three.

    The tiny model draws quicker than worlds run: worlds run at four times their rate.
    """
    tiny = tiny_settings(tiny_model)
    world = dataclasses.replace(
        tiny.world, slots=1, max_replicas=3, upscale_delay_s=0.5, downscale_delay_s=3.0
    )
    ingress = dataclasses.replace(tiny.ingress, replicas=2, target_fps=96)
    return dataclasses.replace(tiny, world=world, ingress=ingress)


@pytest.fixture(scope="module")
def address(application: Application, stores: StoreUrls, settings: ServeSettings) -> str:
    return application.serve(settings, stores)


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


@pytest.fixture(scope="module")
def undisturbed(address: str) -> Callable[..., Awaitable[dict[int, np.ndarray]]]:
    """Plays the first 60 frames of a session that nothing happens to, each kind of session once."""
    shown: dict[str, dict[int, np.ndarray]] = {}

    async def undisturbed(begin: Callable[..., dict], **more: str) -> dict[int, np.ndarray]:
        key = json.dumps(more)
        if key not in shown:
            player = Player([address], begin(SEED, **more))
            await player.until(60)
            httpx.delete(f"{address}/v1/sessions/{player.session['id']}", timeout=PATIENCE_S)
            shown[key] = player.pixels()
        return shown[key]

    return undisturbed


SEED = 31
VIDEO = {"video": base64.b64encode(video(30)).decode()}


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"start": "gallery"}, "invalid_start", "has no gallery of its latents, take"),
        ({"gallery_id": "a-1"}, "unknown_start", "this model has no gallery"),
    ],
)
def test_a_model_without_a_gallery_draws_worlds_unless_one_is_asked_for(address, begin, body, code, message):
    """In this file because the application of the other tests has one."""
    session = begin(30)
    assert session["start"] == {"kind": "drawn", "id": None, "caption": None, "credit": None}
    with httpx.Client(base_url=address, timeout=PATIENCE_S) as client:
        client.delete(f"/v1/sessions/{session['id']}")
        assert client.get("/v1/gallery").json() == {"starts": [], "total": 0, "credit": None}
        refused = client.post("/v1/sessions", json={"prompt": "x", **body})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, code)
    assert message in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("deployment", "more"),
    [
        ("Ingress", {}),
        ("Decoder", {}),
        ("World", {}),
        # Another ingress takes up what the store keeps, whatever the world began from.
        pytest.param("Ingress", VIDEO, marks=pytest.mark.long),
        ("World", VIDEO),
    ],
    ids=["ingress", "decoder", "world", "ingress after a video", "world after a video"],
)
async def test_a_session_goes_on_when_replicas_are_killed(address, begin, undisturbed, deployment, more):
    """And shows what it would have shown: nothing is drawn twice or left out but for what was on its way."""
    expected = await undisturbed(begin, **more)
    # Faster than the world's own pace, more frames would be on their way when the ingress dies.
    player = Player([address], begin(SEED, **more), fps=FPS if deployment == "Ingress" else None)
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


@pytest.mark.cluster
@pytest.mark.parametrize("directly", [True, pytest.param(False, marks=pytest.mark.long)])
async def test_a_new_version_of_the_ingress_costs_players_a_reconnect(
    address, begin, settings, stores, directly
):
    """The short one leaves a direct socket for the proxy; the long one is on the proxy both times."""
    player = Player([address], begin(32), directly, fps=SLOW_FPS)
    newer = dataclasses.replace(settings.ingress, idle_timeout_s=1234 + directly)
    before = {actor._actor_id for actor in replicas("Ingress")}

    def update() -> None:
        serve.run(
            build_app(dataclasses.replace(settings, ingress=newer), stores), name=NAME, route_prefix="/"
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


@pytest.mark.cluster
async def test_world_replicas_come_and_go_with_the_players(address, begin):
    players = [Player([address], begin(40 + i), fps=SLOW_FPS) for i in range(3)]
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
