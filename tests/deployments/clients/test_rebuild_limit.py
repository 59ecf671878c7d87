"""Lost worlds are rebuilt between the chunks of another player: with a real tiny engine, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from deployments.clients.rebuild_limit import RebuildLimiter
from deployments.clients.world_client import WorldClient, WorldPast, WorldShard
from deployments.replicas.messages import EncodedText, OpenRequest, StepRequest
from deployments.replicas.step_batcher import StepBatcher
from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.models.checkpoint import load_checkpoint

FORWARD = Control({"w"}).operations()
TOKENS = np.random.default_rng(1).normal(size=(5, 384)).astype(np.float32)
PROMPT = EncodedText(TOKENS, TOKENS.mean(0))
PATIENCE_S = 60.0
NUM_CHUNKS = 4
"""Drawn again of each world, after its snapshot."""


class Replica:
    """A step batcher as a Serve handle shows it; `answered` lists its calls and their sessions in order."""

    def __init__(self, model: Path, slots: int) -> None:
        loaded = load_checkpoint(model).model
        self._batcher = StepBatcher(WorldEngine(loaded, EngineConfig(slots)), gather_s=0.01, threads=1)
        self.answered: list[tuple[str, str]] = []
        for name in ("open", "restore", "latest"):
            setattr(self, name, SimpleNamespace(remote=self._method(name)))
        self.steps = SimpleNamespace(remote=self._steps)

    def shard(self) -> WorldShard:
        return WorldShard(cast(Any, self), max_batch=8)

    def _method(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            reply = await getattr(self._batcher, name)(*arguments)
            first = arguments[0]
            self.answered.append((name, first if isinstance(first, str) else first.session_id))
            return reply

        return call

    async def _steps(self, requests: list[StepRequest]) -> list[Any]:
        return await asyncio.gather(*(self._method("step")(request) for request in requests))


async def begun(
    replica: Replica,
    name: str,
    limiter: RebuildLimiter,
    past: WorldPast | None = None,
    version: int = 0,
) -> WorldClient:
    client = WorldClient(
        replica.shard(),
        OpenRequest(session_id=name, fence=1, prompt=PROMPT, seed=7),
        past=past or WorldPast(),
        version=version,
        snapshot_every_chunks=2,
        recovery_timeout_s=60,
        rebuild_limiter=limiter,
    )
    await client.begin()
    return client


async def played(replica: Replica, names: str) -> dict[str, WorldPast]:
    """Snapshots and steps of worlds that were played there."""
    pasts = {}
    for name in names:
        client = await begun(replica, name, RebuildLimiter(1))
        # The third brings the snapshot of the world before it.
        for _ in range(3):
            await client.step(FORWARD, None)
        steps = [
            StepRequest(session_id=name, fence=1, version=2 + i, operations=FORWARD)
            for i in range(NUM_CHUNKS)
        ]
        pasts[name] = WorldPast(client.past.snapshot, steps)
    return pasts


async def test_worlds_are_brought_back_one_by_one_and_who_plays_is_served_between_them(tiny_model):
    pasts = await played(Replica(tiny_model, 4), "abcd")
    replica, limiter = Replica(tiny_model, 5), RebuildLimiter(1)
    there = await begun(replica, "p", limiter)
    is_over = asyncio.Event()

    async def play() -> None:
        while not is_over.is_set():
            await there.step(FORWARD, None)

    playing = asyncio.create_task(play())
    back = await asyncio.gather(
        *(begun(replica, name, limiter, pasts[name], 2 + NUM_CHUNKS) for name in "abcd")
    )
    is_over.set()
    await playing
    assert [client.version for client in back] == [2 + NUM_CHUNKS] * 4
    for client in back[1:]:
        assert client.latent is not None and back[0].latent is not None
        np.testing.assert_allclose(client.latent, back[0].latent, atol=1e-2)
    rebuilt = [(kind, name) for kind, name in replica.answered if kind in ("restore", "step") and name != "p"]
    names = [name for kind, name in rebuilt if kind == "restore"]
    assert sorted(names) == [*"abcd"]
    assert rebuilt == [(kind, name) for name in names for kind in ("restore", *["step"] * NUM_CHUNKS)]
    for name in names:
        begin = replica.answered.index(("restore", name))
        until = max(i for i, answer in enumerate(replica.answered) if answer == ("step", name))
        assert replica.answered[begin:until].count(("step", "p")) >= NUM_CHUNKS - 1


async def test_a_rebuild_that_hangs_holds_nobody_up_for_long():
    limiter = RebuildLimiter(1, max_wait_s=0.01)
    async with limiter.slot(), limiter.slot():
        pass
    # One that went ahead without a slot has none to release: exactly one is free.
    async with limiter.slot():
        assert not await is_free(limiter)
    assert await is_free(limiter)


async def test_a_slot_is_waited_for():
    limiter = RebuildLimiter(1, max_wait_s=PATIENCE_S)
    order = []

    async def rebuild(name: str) -> None:
        async with limiter.slot():
            order.append(f"{name} begins")
            for _ in range(3):
                await asyncio.sleep(0)
            order.append(f"{name} ends")

    await asyncio.gather(rebuild("a"), rebuild("b"))
    assert order == ["a begins", "a ends", "b begins", "b ends"]


async def is_free(limiter: RebuildLimiter) -> bool:
    """Whether a slot is had without waiting: a task that need not wait holds it when it has run once."""
    task = asyncio.create_task(limiter.slot().__aenter__())
    await asyncio.sleep(0)
    is_had = task.done()
    task.cancel()
    await asyncio.wait([task])
    return is_had


async def test_a_rebuild_that_fails_releases_its_slot():
    limiter = RebuildLimiter(1, max_wait_s=PATIENCE_S)
    with pytest.raises(RuntimeError):
        async with limiter.slot():
            raise RuntimeError("the replica is gone")
    assert await is_free(limiter)
