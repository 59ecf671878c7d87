"""One chunk's frames as the files that were asked for, as they are drawn."""

from __future__ import annotations

import numpy as np

from deployments.messages import DecodeRequest
from deployments.settings import DecoderSettings
from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.fragments import encode_chunk
from gamegen.video import encode_jpegs, resize_to


class ChunkEncoder:
    """JPEG files as soon as there are frames, or an MP4 file when all four are there."""

    def __init__(self, request: DecodeRequest, settings: DecoderSettings) -> None:
        self._request = request
        self._settings = settings
        self._frames: list[np.ndarray] = []

    def take(self, frames: np.ndarray) -> list[bytes]:
        """The files that the chunk's next frames, uint8 `(T, H, W, 3)`, make; none while others are waited for."""
        resized = resize_to(frames, self._request.size)
        if self._request.sequence is None:
            return encode_jpegs(resized, self._settings.jpeg_quality)
        self._frames += [*resized]
        if len(self._frames) < FRAMES_PER_CHUNK:
            return []
        return [encode_chunk(np.stack(self._frames), self._request.sequence, self._settings.h264_crf)]
