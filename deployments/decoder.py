"""Latents to JPEG files or fragments of MP4: raw pixels never cross a handle."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ray import serve

from deployments.encoding import ChunkEncoder
from deployments.messages import DecodedFrames, DecodeRequest
from deployments.settings import DecoderSettings

_CLIP_NICENESS = 10


@serve.deployment(name="Decoder")
class DecoderDeployment:
    """The streaming decoder and the encoders; holds no session, since each request brings its memory."""

    def __init__(self, model: str, settings: DecoderSettings, draws_blanks: bool = False) -> None:
        import torch

        from gamegen.models.latent_decoder import LatentDecoder
        from gamegen.models.variants import Variant

        # What is compiled below takes its number from here; the thread that uses it sets its own.
        torch.set_num_threads(settings.threads)
        loaded = Variant.parse(model).load()
        self._model = loaded
        self._decoder = LatentDecoder(loaded)
        self._settings, self._draws_blanks = settings, draws_blanks
        self._thread = ThreadPoolExecutor(
            1, "decoder", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )
        self._clip_thread = ThreadPoolExecutor(
            1, "clips", initializer=_begin_clips, initargs=(settings.threads,)
        )
        size = (loaded.config.width, loaded.config.height)
        blank = np.zeros(loaded.config.latent_shape, np.float16)
        self._thread.submit(lambda: [*self._decode([DecodeRequest(blank, None, size)])]).result()

    async def decode(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        """Yields each chunk's first frame as soon as it is drawn, then its other three; a fragment has all four."""
        loop, parts = asyncio.get_running_loop(), self._decode(requests)
        while (part := await loop.run_in_executor(self._thread, next, parts, None)) is not None:
            yield part

    async def decode_clip(self, latents: np.ndarray, first_chunk: int) -> AsyncIterator[np.ndarray]:
        """Frames, uint8 `(4, H, W, 3)`, of each chunk from `first_chunk` on of normalised latents `(M, C, h, w)`.

        By the large decoder, beside play and after it.
        """
        loop = asyncio.get_running_loop()
        for chunk in range(first_chunk, len(latents)):
            yield await loop.run_in_executor(self._clip_thread, self._decode_chunk, latents, chunk)

    def _decode_chunk(self, latents: np.ndarray, chunk: int) -> np.ndarray:
        import torch

        from gamegen.clips.blank import blank_frames
        from gamegen.clips.decode import CHUNKS_BEFORE, decode_window

        if self._draws_blanks:
            return blank_frames(latents[chunk])
        start = max(0, chunk - CHUNKS_BEFORE)
        # Copied, because arrays that crossed a handle may be read-only views.
        return decode_window(self._model, torch.from_numpy(latents[start : chunk + 1].copy()), chunk - start)

    def _decode(self, requests: list[DecodeRequest]) -> Iterator[list[DecodedFrames]]:
        import torch

        start = time.perf_counter()
        # Copied, because arrays that crossed a handle may be read-only views.
        latents = [torch.from_numpy(r.latent.copy()) for r in requests]
        previous = [None if r.previous is None else torch.from_numpy(r.previous.copy()) for r in requests]
        encoders = [ChunkEncoder(request, self._settings) for request in requests]
        for part in self._decoder.decode_in_parts(latents, previous):
            files = [encoder.take(frames) for encoder, frames in zip(encoders, part.numpy(), strict=True)]
            decode_ms = 1000 * (time.perf_counter() - start)
            yield [DecodedFrames(made, decode_ms) for made in files]


def _begin_clips(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)
    # Of this thread alone: players do not wait for clips.
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _CLIP_NICENESS)
