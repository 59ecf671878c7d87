"""Play without a socket, with a real Valkey server that is stopped while chunks are drawn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from valkey.asyncio import Valkey

from deployments.clients.decoder_client import DecoderClient
from deployments.clients.rebuild_limit import RebuildLimiter
from deployments.clients.world_client import WorldShards
from deployments.embedded_store import embedded_store
from deployments.errors import ApiError
from deployments.ingress.one_shot import play_once
from deployments.ingress.schemas import OneShot, OneShotFrames
from deployments.replicas.messages import (
    Chunk,
    DecodedFrames,
    DecodeRequest,
    EncodedText,
    Opened,
    OpenRequest,
    StepRequest,
)
from deployments.sessions.admission_queue import AdmissionQueue
from deployments.sessions.capacity_registry import CapacityRegistry, PlayCapacity
from deployments.sessions.limits import StoreLimits
from deployments.sessions.session_record import SessionRecord
from deployments.sessions.store import SessionStore
from deployments.sessions.valkey_client import PLAYING, connect
from deployments.settings import ServeSettings
from deployments.stream import journal as journals
from deployments.stream.context import PlayContext, ReplicaClients
from gamegen.sessions.log import VideoPrompt, WorldSpec

RECORD, TOKEN = SessionRecord.new(
    "a", WorldSpec(model="nano", prompt="desert at noon", perspective="first", seed=7, width=160, height=96)
)


class Worlds:
    """A handle of world replicas whose chunks are blank; `on_step` is awaited while each is drawn."""

    def __init__(self) -> None:
        self.on_step: Callable[[int], Awaitable[None]] = self._at_once
        self.open = SimpleNamespace(remote=self._open)
        self.steps = SimpleNamespace(remote=self._steps)

    async def _at_once(self, version: int) -> None:
        return

    def options(self, session_id: str) -> Worlds:
        return self

    async def _open(self, request: OpenRequest) -> Opened:
        return Opened(0, None)

    async def _steps(self, requests: list[StepRequest]) -> list[Chunk]:
        return [await self._step(request) for request in requests]

    async def _step(self, request: StepRequest) -> Chunk:
        await self.on_step(request.version)
        return Chunk(
            version=request.version + 1, latent=np.zeros((4, 12, 20), np.float16), step_ms=1.0, num_sessions=1
        )


class Decoders:
    """A handle of decoder replicas."""

    def __init__(self) -> None:
        self.decode = SimpleNamespace(remote=self._decode)

    def options(self, stream: bool) -> Decoders:
        return self

    async def _decode(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        yield [DecodedFrames([b"jpeg"] * 4, 1.0) for _ in requests]


class Gauge:
    """The number of chunks that are held back."""

    def __init__(self) -> None:
        self.value = 0
        self.highest = 0

    def add(self, amount: int) -> None:
        self.value += amount
        self.highest = max(self.highest, self.value)


class Server:
    """A Valkey server, and the play context of an ingress that uses it."""

    def __init__(self, folder: Path) -> None:
        self._stack = ExitStack()
        self.valkey: Valkey = connect(self._stack.enter_context(embedded_store(folder)))
        limits = StoreLimits(kept_s=60)
        self.worlds = Worlds()
        self.store = SessionStore(self.valkey, limits)
        self.registry = CapacityRegistry(self.valkey)
        self.context = PlayContext(
            settings=ServeSettings(),
            store=self.store,
            queue=AdmissionQueue(self.valkey, limits),
            capacity=PlayCapacity(self.registry, max_sessions=4),
            replicas=ReplicaClients(
                worlds=WorldShards(cast(Any, self.worlds), num_shards=1, max_batch=4),
                decoder=DecoderClient(cast(Any, Decoders()), num_replicas=1, max_batch=4),
                encode_text=self._encode_text,
                encode_video=self._encode_video,
                rebuild_limiter=RebuildLimiter(1),
            ),
        )

    def stop(self) -> None:
        self._stack.close()

    async def play(self, num_chunks: int) -> OneShotFrames:
        order = OneShot(session_id=RECORD.id, resume_token=TOKEN, keys=["w"], chunks=num_chunks)
        return await play_once(RECORD, order, self.context)

    async def _encode_text(self, text: str, perspective: str | None) -> EncodedText:
        return EncodedText(np.zeros((1, 8), np.float32), np.zeros(8, np.float32))

    async def _encode_video(self, prompt: VideoPrompt) -> np.ndarray:
        raise AssertionError("no video prompt was given")


@pytest.fixture
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    server = Server(tmp_path_factory.mktemp("valkey"))
    await server.store.create(RECORD, 4)
    await server.registry.offer("one", 4, 60)
    yield server
    await server.valkey.aclose()
    server.stop()


@pytest.fixture
def held_back(monkeypatch: pytest.MonkeyPatch) -> Gauge:
    gauge = Gauge()
    monkeypatch.setattr(journals, "CHUNKS_HELD_BACK", gauge)
    return gauge


async def test_each_chunk_is_logged_before_the_next_is_drawn(server, held_back):
    logged = []

    async def on_step(version: int) -> None:
        logged.append((await server.store.get(RECORD.id)).version)

    server.worlds.on_step = on_step
    answer = await server.play(3)
    assert logged == [0, 1, 2] and (answer.chunk, len(answer.frames)) == (0, 12)
    found = await server.store.get(RECORD.id)
    assert (found.version, found.frames_sent, found.state) == (3, 12, "waiting")
    assert held_back.value == held_back.highest == 0


async def test_chunks_that_cannot_be_logged_are_not_answered_with_frames(server, held_back):
    async def on_step(version: int) -> None:
        if version == 1:
            server.stop()

    server.worlds.on_step = on_step
    with pytest.raises(ApiError, match="session store does not answer") as refused:
        await server.play(3)
    assert (refused.value.status, refused.value.code, refused.value.retry_after_s) == (503, "not_ready", 5)
    # The chunk was held back, and with its journal it is gone.
    assert (held_back.highest, held_back.value) == (1, 0)


async def test_a_store_that_goes_away_after_the_last_chunk_loses_nothing(server, monkeypatch):
    release = server.store.release

    async def stop_and_release(record: SessionRecord) -> None:
        server.stop()
        await release(record)

    monkeypatch.setattr(server.store, "release", stop_and_release)
    assert len((await server.play(2)).frames) == 8


async def test_the_lease_is_renewed_while_a_chunk_takes_long(server, monkeypatch):
    monkeypatch.setattr(journals, "RENEW_INTERVAL_S", 0.01)

    async def on_step(version: int) -> None:
        first = await server.valkey.zscore(PLAYING, RECORD.id)
        async with asyncio.timeout(30):
            while await server.valkey.zscore(PLAYING, RECORD.id) == first:
                await asyncio.sleep(0.01)

    server.worlds.on_step = on_step
    assert len((await server.play(1)).frames) == 4


async def test_a_session_that_another_claims_is_not_played_on(server, monkeypatch):
    monkeypatch.setattr(journals, "RENEW_INTERVAL_S", 0.01)

    async def on_step(version: int) -> None:
        await server.store.claim(RECORD.id)
        await asyncio.Event().wait()

    server.worlds.on_step = on_step
    async with asyncio.timeout(30):
        with pytest.raises(ApiError) as refused:
            await server.play(1)
    assert (refused.value.status, refused.value.code) == (409, "session_is_played")
