"""Worlds that are brought back between the chunks of another player, with a real tiny engine, without Ray."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from deployments import rebuild_turns
from deployments.engine_loop import EngineLoop
from deployments.messages import EncodedText, OpenRequest, StepRequest
from deployments.rebuild_turns import RebuildTurns
from deployments.world_client import WorldClient, WorldPast
from gamegen.controls import Control
from gamegen.models.checkpoint import load_checkpoint
from gamegen.world import EngineConfig, WorldEngine

FORWARD = Control({"w"}).operations()
TOKENS = np.random.default_rng(1).normal(size=(5, 384)).astype(np.float32)
PROMPT = EncodedText(TOKENS, TOKENS.mean(0))
NUM_CHUNKS = 4
"""Drawn again of each world, after its snapshot."""


class Replica:
    """An engine loop at the end of a lane, and what it answered to whom, in order."""

    def __init__(self, model: Path, slots: int) -> None:
        loaded = load_checkpoint(model).model
        self._loop = EngineLoop(WorldEngine(loaded, EngineConfig(slots)), gather_s=0.01, threads=1)
        self.answered: list[tuple[str, str]] = []
        names = ("open", "restore", "latest", "step")
        self.lane: Any = SimpleNamespace(**{name: self._method(name) for name in names})

    def _method(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            reply = await getattr(self._loop, name)(*arguments)
            first = arguments[0]
            self.answered.append((name, first if isinstance(first, str) else first.session_id))
            return reply

        return call


async def begun(replica: Replica, name: str, turns: RebuildTurns) -> WorldClient:
    opening = OpenRequest(name, 1, PROMPT, 7)
    client = WorldClient(replica.lane, opening, WorldPast(), 0, 2, 60, turns)
    await client.begin()
    return client


async def played(replica: Replica, names: str) -> dict[str, WorldPast]:
    """What worlds that were played there can be brought back from: a snapshot and chunks."""
    pasts = {}
    for name in names:
        client = await begun(replica, name, RebuildTurns(1))
        for _ in range(2):
            await client.step(FORWARD, None)
        steps = [StepRequest(name, 1, 2 + i, FORWARD) for i in range(NUM_CHUNKS)]
        pasts[name] = WorldPast(client._past.snapshot, steps)
    return pasts


async def test_worlds_are_brought_back_one_by_one_and_who_plays_is_served_between_them(tiny_model):
    pasts = await played(Replica(tiny_model, 4), "abcd")
    replica, turns = Replica(tiny_model, 5), RebuildTurns(1)
    there = await begun(replica, "p", turns)
    is_over = asyncio.Event()

    async def play() -> None:
        while not is_over.is_set():
            await there.step(FORWARD, None)

    async def come_back(name: str) -> WorldClient:
        opening, version = OpenRequest(name, 1, PROMPT, 7), 2 + NUM_CHUNKS
        client = WorldClient(replica.lane, opening, pasts[name], version, 2, 60, turns)
        await client.begin()
        return client

    playing = asyncio.create_task(play())
    back = await asyncio.gather(*(come_back(name) for name in "abcd"))
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


async def test_a_rebuild_that_hangs_holds_nobody_up_for_long(monkeypatch):
    monkeypatch.setattr(rebuild_turns, "_LONGEST_WAIT_S", 0.01)
    turns = RebuildTurns(1)
    async with turns.one(), turns.one():
        pass
    monkeypatch.setattr(rebuild_turns, "_LONGEST_WAIT_S", 60.0)
    # Who went without a turn has none to give back.
    async with turns.one():
        waiting = asyncio.create_task(turns.one().__aenter__())
        await asyncio.sleep(0.05)
        assert not waiting.done()
    await waiting


async def test_a_rebuild_that_fails_gives_its_turn_back():
    turns = RebuildTurns(1)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            async with turns.one():
                raise RuntimeError("the replica is gone")
