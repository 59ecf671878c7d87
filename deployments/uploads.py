"""Pictures and videos that clients send: refused here, or what the world replicas will read."""

from __future__ import annotations

import asyncio
from typing import Any

from deployments.errors import ApiError
from deployments.schemas import NewSession
from deployments.settings import IngressSettings
from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.first_frames import check_video, read_first_frames
from gamegen.video import decode_image


class Uploads:
    """Looks through one file after another: the cores are for those who play."""

    def __init__(self, settings: IngressSettings) -> None:
        self._settings = settings
        self._turn = asyncio.Lock()

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
        if len(file) > limit:
            message = f"the {kind} has {len(file)} bytes and the limit is {limit}: send a smaller one"
            raise ApiError(413, f"{kind}_too_large", message)
        try:
            async with self._turn:
                return file, await asyncio.to_thread(_num_chunks, kind, file, facts)
        except ValueError as error:
            raise ApiError(422, f"invalid_{kind}", str(error)) from error


def _num_chunks(kind: str, file: bytes, facts: dict[str, Any]) -> int:
    """How many chunks a world goes on from, counted as world replicas will: by reading them."""
    (decode_image if kind == "image" else check_video)(file)
    frames = read_first_frames(file, (facts["width"], facts["height"]), facts["remembered_chunks"])
    return len(frames) // FRAMES_PER_CHUNK
