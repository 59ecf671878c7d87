"""Encoding of one chunk's frames into JPEG or MP4 files."""

from __future__ import annotations

import numpy as np

from deployments.replicas.messages import DecodeRequest
from deployments.settings import DecoderSettings
from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.media.fmp4 import encode_chunk
from gamegen.media.frames import resize_to
from gamegen.media.images import encode_jpegs


class ChunkEncoder:
    """Encodes frames into JPEG files as they come, or into one MP4 file once all four have come."""

    def __init__(self, request: DecodeRequest, settings: DecoderSettings) -> None:
        self._request = request
        self._settings = settings
        self._frames: list[np.ndarray] = []

    def take(self, frames: np.ndarray) -> list[bytes]:
        """Encodes the chunk's next frames, uint8 `(T, H, W, 3)`; returns no file while an MP4 file is incomplete."""
        resized = resize_to(frames, self._request.size)
        if self._request.sequence is None:
            return encode_jpegs(resized, self._settings.jpeg_quality)
        self._frames += [*resized]
        if len(self._frames) < FRAMES_PER_CHUNK:
            return []
        return [encode_chunk(np.stack(self._frames), self._request.sequence, self._settings.h264_crf)]
