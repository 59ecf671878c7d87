"""Video prompts of a stream: fetched and encoded while the world is played on, then followed."""

from __future__ import annotations

import asyncio
import time

from valkey.exceptions import ValkeyError

from deployments.backstage import Backstage
from deployments.connection import Allowance, Connection
from deployments.errors import ApiError
from deployments.messages import Follow
from deployments.player import Player
from deployments.tasks import end
from gamegen.session_log import VideoPrompt

MOST_PER_S = 4
"""Video prompts that a player may ask for in a second: each is fetched, as large as it is, and encoded."""


class Following:
    """The video prompts that one player asks for, of which the newest counts."""

    def __init__(self, session_id: str, backstage: Backstage, connection: Connection) -> None:
        self._session_id = session_id
        self._backstage = backstage
        self._connection = connection
        self._may_ask = Allowance(MOST_PER_S)
        self._task: asyncio.Task[None] | None = None

    async def begin(self, player: Player, prompt_id: str, timestamp: float) -> None:
        """Has the world follow a video prompt as soon as it is read; an empty id lifts the one there is."""
        if not self._may_ask.is_within():
            message = f"more than {MOST_PER_S} video prompts a second: ask for this one again in a second"
            await self._connection.send_error("too_many_video_prompts", message)
            return
        if self._task:
            self._task.cancel()
        self._task = asyncio.create_task(self._follow(player, prompt_id, timestamp))

    async def end(self) -> None:
        """What is still being read is not followed any more."""
        if self._task:
            await end(self._task)

    async def _follow(self, player: Player, prompt_id: str, timestamp: float) -> None:
        start = time.monotonic()
        try:
            prompt = await self._find(player, prompt_id) if prompt_id else None
            latents = await self._backstage.encode_video(prompt) if prompt else None
            if self._task is not asyncio.current_task():
                # Another was asked for, and this one did not hear of it in time.
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

    async def _find(self, player: Player, prompt_id: str) -> VideoPrompt:
        if known := player.video_prompt(prompt_id):
            return known
        try:
            prompt = await self._backstage.store.video_prompt(self._session_id, prompt_id)
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
