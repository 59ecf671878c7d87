"""Loading of a stream's video prompts: they are fetched and encoded while play goes on, then followed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import numpy as np
from valkey.exceptions import ValkeyError

from deployments.background import cancel_and_wait
from deployments.errors import ApiError
from deployments.rate_limit import FixedWindowLimiter
from deployments.replicas.messages import Follow
from deployments.sessions.store import SessionStore
from deployments.stream.player import SessionPlayer
from deployments.stream.socket_connection import Connection
from gamegen.sessions.log import VideoPrompt

MAX_PER_S = 4
"""Video prompts that a player may ask for in a second: each is fetched whole and encoded."""


class VideoPromptLoader:
    """Loads the video prompts that one player asks for; a newer one replaces one that is still being loaded."""

    def __init__(
        self,
        *,
        session_id: str,
        store: SessionStore,
        encode_video: Callable[[VideoPrompt], Awaitable[np.ndarray]],
        connection: Connection,
    ) -> None:
        self._session_id = session_id
        self._store = store
        self._encode_video = encode_video
        self._connection = connection
        self._limiter = FixedWindowLimiter(MAX_PER_S)
        self._task: asyncio.Task[None] | None = None

    async def start(self, player: SessionPlayer, prompt_id: str, timestamp: float) -> None:
        """Starts to load a video prompt, which the world follows once it is encoded; an empty id lifts the last."""
        if not self._limiter.allow():
            message = f"more than {MAX_PER_S} video prompts a second: ask for this one again in a second"
            await self._connection.send_error("too_many_video_prompts", message)
            return
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._follow(player, prompt_id, timestamp))

    async def end(self) -> None:
        """Cancels the loading."""
        if self._task:
            await cancel_and_wait(self._task)

    async def _follow(self, player: SessionPlayer, prompt_id: str, timestamp: float) -> None:
        start = time.monotonic()
        try:
            prompt = await self._find(player, prompt_id) if prompt_id else None
            latents = await self._encode_video(prompt) if prompt else None
            if self._task is not asyncio.current_task():
                # A newer one was asked for, and this task was not cancelled in time.
                return
            chunk = player.follow(prompt, Follow(latents))
        except ApiError as error:
            await self._connection.send_error(error.code, error.message)
            return
        ack = {
            "type": "ack",
            "video_prompt": prompt_id,
            "chunk": chunk,
            "last_chunk": None if latents is None else chunk + len(latents) - 1,
            "timestamp": timestamp,
            "encode_ms": round(1000 * (time.monotonic() - start), 2),
            "step_delay_ms": round(1000 * player.clock.step_delay_s(), 2),
        }
        await self._connection.send_message(ack)

    async def _find(self, player: SessionPlayer, prompt_id: str) -> VideoPrompt:
        if known := player.video_prompt(prompt_id):
            return known
        try:
            prompt = await self._store.video_prompt(self._session_id, prompt_id)
        except (ValkeyError, OSError) as error:
            message = "the session store does not answer: send this again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=5) from error
        if prompt is None:
            message = (
                f"this session has no video prompt {prompt_id!r}: upload it with POST "
                "/v1/sessions/{id}/video-prompts, which answers its id"
            )
            raise ApiError(404, "unknown_video_prompt", message)
        return prompt
