"""Starts of new sessions: the file that a world continues, chosen from the gallery or uploaded."""

from __future__ import annotations

import asyncio
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.errors import ApiError
from deployments.ingress.schemas import NewSession
from deployments.ingress.uploads import Uploads
from deployments.replicas.messages import EncodedText
from gamegen.gallery.gallery import Gallery, UnknownStartError
from gamegen.media.recorded_start import START_CHUNKS
from gamegen.sessions.start import resolve_start

_TIMEOUT_S = 30.0


class ServedGallery:
    """Asks a world replica for the gallery of the served model and keeps the first answer."""

    def __init__(self, world: DeploymentHandle) -> None:
        self._world = world
        self._lock = asyncio.Lock()
        self._answers: list[Gallery | None] = []

    async def get(self) -> Gallery | None:
        """The gallery, None if the model has none; it is the same while the application runs.

        Raises ApiError (503) while no world replica answers.
        """
        async with self._lock:
            if not self._answers:
                self._answers.append(await self._ask())
        return self._answers[0]

    async def _ask(self) -> Gallery | None:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._world.gallery.remote()
        # Any failure of the replica, whatever its type, means the same to clients.
        except Exception as error:
            message = "no world replica answers: it is starting, try again in a few seconds"
            raise ApiError(503, "not_ready", message, retry_after_s=5) from error


class SessionStarts:
    """Resolves what a new session begins from."""

    def __init__(self, uploads: Uploads, gallery: ServedGallery) -> None:
        self._uploads = uploads
        self._gallery = gallery

    async def first_frames(
        self, wish: NewSession, prompt: EncodedText, facts: dict[str, Any]
    ) -> tuple[bytes | None, int]:
        """The file that a world continues and its number of chunks, (None, 0) for a world drawn from words alone.

        Raises ApiError: 413 for a file with too many bytes, 422 for one that cannot be read and for a start that cannot
        be had, 503 while no world replica answers.
        """
        gallery = await self._gallery.get()
        has_picture = wish.image is not None or wish.video is not None
        try:
            kind = resolve_start(wish.start, has_picture=has_picture, has_gallery=gallery is not None)
            if wish.gallery_id is not None and kind != "gallery":
                message = f"this model has no gallery, so no start {wish.gallery_id!r}: leave gallery_id out"
                raise UnknownStartError(message)
            if kind == "gallery" and gallery is not None:
                if wish.gallery_id is not None:
                    start = gallery.start(wish.gallery_id, wish.seed)
                else:
                    start = gallery.choose(prompt.pooled, wish.perspective, wish.seed)
                return start.to_bytes(), START_CHUNKS
        except UnknownStartError as error:
            raise ApiError(422, "unknown_start", f"gallery_id: {error}") from error
        except ValueError as error:
            raise ApiError(422, "invalid_start", str(error)) from error
        return await self._uploads.first_frames(wish, facts)
