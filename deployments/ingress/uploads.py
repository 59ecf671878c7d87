"""Checks of the images and videos that sessions start from and of video prompts."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from cachetools import LRUCache
from ray.serve.handle import DeploymentHandle

from deployments.errors import ApiError
from deployments.ingress.schemas import NewSession
from deployments.replicas.messages import Rejected
from deployments.settings import IngressSettings
from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.media.first_frames import check_video, read_first_frames
from gamegen.media.images import decode_image
from gamegen.sessions.log import VideoPrompt

_ENCODE_TIMEOUT_S = 60.0
_KEPT_LATENTS = 8
"""Video prompts whose latents are kept; they are encoded at upload and followed soon after."""


class Uploads:
    """Decodes and encodes uploaded files one after another, which leaves the cores to play."""

    def __init__(self, settings: IngressSettings, world: DeploymentHandle) -> None:
        self._settings = settings
        self._world = world
        self._lock = asyncio.Lock()
        self._latents: LRUCache[str, np.ndarray] = LRUCache(_KEPT_LATENTS)

    async def first_frames(self, wish: NewSession, facts: dict[str, Any]) -> tuple[bytes | None, int]:
        """The image or video file that a world continues and its number of chunks, (None, 0) without a file.

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
            async with self._lock:
                return file, await asyncio.to_thread(_num_chunks, kind, file, facts)
        except ValueError as error:
            raise ApiError(422, f"invalid_{kind}", str(error)) from error

    async def check_video_prompt(self, prompt: VideoPrompt, facts: dict[str, Any]) -> int:
        """The number of chunks that a video prompt lasts.

        Raises ApiError: 413 for a file with too many bytes, 422 for one that cannot be decoded or a model that follows
        no video prompts, 503 while no world replica answers.
        """
        if not facts["follows_video_prompts"]:
            message = f"{facts['model']} follows no video prompts: ask for a model that was trained with some"
            raise ApiError(422, "no_video_prompts", message)
        _check_size("video", prompt.file, self._settings.max_video_prompt_bytes)
        return len(await self.encode_video(prompt))

    async def encode_video(self, prompt: VideoPrompt) -> np.ndarray:
        """A video prompt's latents, float16 `(T, C, h, w)`; raises ApiError (422, 503)."""
        async with self._lock:
            if prompt.id not in self._latents:
                self._latents[prompt.id] = await self._encoded(prompt)
            return self._latents[prompt.id]

    async def _encoded(self, prompt: VideoPrompt) -> np.ndarray:
        try:
            async with asyncio.timeout(_ENCODE_TIMEOUT_S):
                latents = await self._world.encode_video.remote(prompt)
        # A dying replica raises many types; all of them mean that the video can be sent again.
        except Exception as error:
            message = "no world replica could encode the video: send it again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=5) from error
        if isinstance(latents, Rejected):
            raise ApiError(422, "invalid_video_prompt", latents.message)
        return latents


def _check_size(kind: str, file: bytes, limit: int) -> None:
    if len(file) > limit:
        message = f"the {kind} has {len(file)} bytes and the limit is {limit}: send a smaller one"
        raise ApiError(413, f"{kind}_too_large", message)


def _num_chunks(kind: str, file: bytes, facts: dict[str, Any]) -> int:
    """The number of chunks of a file, counted as world replicas will: by decoding it."""
    (decode_image if kind == "image" else check_video)(file)
    frames = read_first_frames(file, (facts["width"], facts["height"]), facts["remembered_chunks"])
    return len(frames) // FRAMES_PER_CHUNK
