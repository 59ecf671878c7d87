"""Video prompts of one player: the newest counts, and there are not too many."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import numpy as np
import pytest

from deployments import rate_limit
from deployments.replicas.messages import Follow
from deployments.sessions.store import SessionStore
from deployments.stream.pacing import ChunkClock
from deployments.stream.socket_connection import Connection
from deployments.stream.video_prompt_loader import MAX_PER_S, VideoPromptLoader
from gamegen.sessions.log import VideoPrompt
from tests.stopped_clock import StoppedClock

PROMPTS = {name: VideoPrompt("pose", name.encode()) for name in "ab"}


class Source:
    """A store of video prompts that takes as long to encode one as the test wants."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.fetched: list[str] = []

    async def video_prompt(self, session_id: str, prompt_id: str) -> VideoPrompt | None:
        self.fetched.append(prompt_id)
        return PROMPTS.get(prompt_id)

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray:
        await self.may_end.wait()
        return np.zeros((3, 4, 4, 4), np.float16)


class Player:
    """Notes what it is asked to follow."""

    def __init__(self) -> None:
        self.clock = ChunkClock()
        self.followed: list[VideoPrompt | None] = []

    def video_prompt(self, prompt_id: str) -> VideoPrompt | None:
        return next((prompt for prompt in self.followed if prompt == PROMPTS.get(prompt_id)), None)

    def follow(self, prompt: VideoPrompt | None, follow: Follow) -> int:
        self.followed.append(prompt)
        return 7


class Messages:
    """A connection that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.came = asyncio.Event()

    async def send_message(self, message: dict[str, Any]) -> None:
        self.said.append(message)
        self.came.set()

    async def send_error(self, code: str, message: str) -> None:
        await self.send_message({"type": "error", "code": code})


def loader_of(source: Source, messages: Messages) -> VideoPromptLoader:
    return VideoPromptLoader(
        session_id="s",
        store=cast(SessionStore, source),
        encode_video=source.encode_video,
        connection=cast(Connection, messages),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    clock = StoppedClock()
    monkeypatch.setattr(rate_limit, "time", clock)
    return clock


async def next_message(messages: Messages) -> dict[str, Any]:
    async with asyncio.timeout(30):
        await messages.came.wait()
    messages.came.clear()
    return messages.said[-1]


async def test_of_several_the_newest_is_followed_and_fetched_once(clock):
    source, player, messages = Source(), Player(), Messages()
    loader = loader_of(source, messages)
    await loader.start(cast(Any, player), "a", 1.0)
    await asyncio.sleep(0)
    await loader.start(cast(Any, player), "b", 2.0)
    source.may_end.set()
    ack = await next_message(messages)
    assert (ack["video_prompt"], ack["chunk"], ack["last_chunk"], ack["timestamp"]) == ("b", 7, 9, 2.0)
    await loader.start(cast(Any, player), "b", 3.0)
    await next_message(messages)
    assert player.followed == [PROMPTS["b"]] * 2 and source.fetched == ["a", "b"]
    await loader.start(cast(Any, player), "", 4.0)
    assert (await next_message(messages))["last_chunk"] is None
    assert player.followed[-1] is None and [message["type"] for message in messages.said] == ["ack"] * 3


async def test_too_many_in_a_second_are_refused_and_leave_the_last_as_it_is(clock):
    source, player, messages = Source(), Player(), Messages()
    loader = loader_of(source, messages)
    for _ in range(MAX_PER_S):
        await loader.start(cast(Any, player), "a", 1.0)
    await loader.start(cast(Any, player), "b", 2.0)
    assert messages.said == [{"type": "error", "code": "too_many_video_prompts"}]
    messages.came.clear()
    source.may_end.set()
    assert (await next_message(messages))["video_prompt"] == "a"
    clock.now += 1
    await loader.start(cast(Any, player), "b", 3.0)
    assert (await next_message(messages))["video_prompt"] == "b"


async def test_nothing_is_followed_after_the_end(clock):
    source, player, messages = Source(), Player(), Messages()
    loader = loader_of(source, messages)
    await loader.start(cast(Any, player), "a", 1.0)
    await asyncio.sleep(0)
    await loader.end()
    source.may_end.set()
    assert not player.followed and not messages.said
