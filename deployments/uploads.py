"""Pictures and videos that clients send: refused, or what the world replicas will read."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import numpy as np
from ray.serve.handle import DeploymentHandle

from deployments.errors import ApiError
from deployments.messages import Refusal
from deployments.schemas import NewSession
from deployments.settings import IngressSettings
from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.first_frames import check_video, read_first_frames
from gamegen.session_log import VideoPrompt
from gamegen.video import decode_image

_ENCODE_TIMEOUT_S = 60.0
_KEPT_LATENTS = 8
"""Of video prompts, which are encoded when they are uploaded and followed soon after."""


class Uploads:
    """Looks through one file after another: the cores are for those who play."""

    def __init__(self, settings: IngressSettings, world: DeploymentHandle) -> None:
        self._settings = settings
        self._world = world
        self._turn = asyncio.Lock()
        self._latents: OrderedDict[str, np.ndarray] = OrderedDict()

    async def first_frames(self, wish: NewSession, facts: dict[str, Any]) -> tuple[bytes | None, int]:
        """The file that a world goes on from and how many chunks it is, or none; `facts` are those of the model.

        Raises ApiError: 413 for a file with too many bytes, 422 for one that cannot be read.
        """
        if wish.image is not None:
            kind, file, limit = "image", wish.image, self._settings.max_image_bytes
        elif wish.video is not None:
            kind, file, limit = "video", wish.video, self._settings.max_video_bytes
        else:
            return None, 0
        _check_size(kind, file, limit)
        try:
            async with self._turn:
                return file, await asyncio.to_thread(_num_chunks, kind, file, facts)
        except ValueError as error:
            raise ApiError(422, f"invalid_{kind}", str(error)) from error

    async def check_video_prompt(self, prompt: VideoPrompt, facts: dict[str, Any]) -> int:
        """For how many chunks a video prompt lasts.

        Raises ApiError: 413 for a file with too many bytes, 422 for one that cannot be read or a model that follows
        none, 503 while no world replica answers.
        """
        if not facts["follows_video_prompts"]:
            message = f"{facts['model']} follows no video prompts: ask for a model that was trained with some"
            raise ApiError(422, "no_video_prompts", message)
        _check_size("video", prompt.file, self._settings.max_video_prompt_bytes)
        return len(await self.encode_video(prompt))

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray:
        """A video prompt's latents, see `Follow`. Raises ApiError (422, 503)."""
        async with self._turn:
            if prompt.id not in self._latents:
                self._latents[prompt.id] = await self._encoded(prompt)
            self._latents.move_to_end(prompt.id)
            latents = self._latents[prompt.id]
            while len(self._latents) > _KEPT_LATENTS:
                self._latents.popitem(last=False)
        return latents

    async def _encoded(self, prompt: VideoPrompt) -> np.ndarray:
        try:
            async with asyncio.timeout(_ENCODE_TIMEOUT_S):
                latents = await self._world.encode_video.remote(prompt)
        # A dying replica raises many things; all of them mean that the video can be sent again.
        except Exception as error:
            message = "the video could not be read just now: send it again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=5) from error
        if isinstance(latents, Refusal):
            raise ApiError(422, "invalid_video_prompt", latents.message)
        return latents


def _check_size(kind: str, file: bytes, limit: int) -> None:
    if len(file) > limit:
        message = f"the {kind} has {len(file)} bytes and the limit is {limit}: send a smaller one"
        raise ApiError(413, f"{kind}_too_large", message)


def _num_chunks(kind: str, file: bytes, facts: dict[str, Any]) -> int:
    """How many chunks a world goes on from, counted as world replicas will: by reading them."""
    (decode_image if kind == "image" else check_video)(file)
    frames = read_first_frames(file, (facts["width"], facts["height"]), facts["remembered_chunks"])
    return len(frames) // FRAMES_PER_CHUNK
