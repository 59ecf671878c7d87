"""The health route, which names the reason why the server is not ready."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from deployments.errors import install_error_handlers
from deployments.ingress.model_facts import ModelFacts
from deployments.ingress.status_routes import router
from deployments.videos.startup import VideoStartup

PATIENCE_S = 60.0


class World:
    """Stands for a handle of the world deployment, whose replica answers or is lost."""

    def __init__(self) -> None:
        self.is_lost = False
        self.facts = self

    async def remote(self) -> dict[str, Any]:
        if self.is_lost:
            raise ConnectionError("lost")
        return {"model": "nano"}


async def health(world: World, videos: VideoStartup) -> httpx.Response:
    app = FastAPI()
    install_error_handlers(app)
    app.include_router(router)
    app.state.services = SimpleNamespace(model_facts=ModelFacts(world), videos=videos)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://a") as client:
        return await client.get("/healthz")


async def test_the_reason_of_a_clip_service_that_cannot_be_opened_is_told():
    is_repaired = asyncio.Event()

    async def opened(_resources: AsyncExitStack) -> Any:
        if not is_repaired.is_set():
            raise ValueError("keys, line 3: write an account and its key's SHA-256 in hexadecimal")
        return object()

    world, videos = World(), VideoStartup(opened, timeout_s=PATIENCE_S, retry_interval_s=0.01)
    assert (await health(world, videos)).json() == {"status": "ok"}
    videos.begin()
    async with asyncio.timeout(PATIENCE_S):
        while not videos.failure:
            await asyncio.sleep(0.01)
        answer = await health(world, videos)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
        assert "keys, line 3" in answer.json()["error"]["message"]
        is_repaired.set()
        while videos.failure:
            await asyncio.sleep(0.01)
    assert (await health(world, videos)).status_code == 200
    world.is_lost = True
    answer = await health(world, videos)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert "no world replica answers" in answer.json()["error"]["message"]
    await videos.close()
