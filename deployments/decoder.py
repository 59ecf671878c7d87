"""Latents to JPEG frames: raw pixels never cross a handle."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from ray import serve

from deployments.messages import DecodedChunk, DecodeRequest
from deployments.settings import DecoderSettings


@serve.deployment(name="Decoder")
class DecoderDeployment:
    """The streaming decoder and the JPEG encoder; holds no session, since each request brings its memory."""

    def __init__(self, model: str, settings: DecoderSettings) -> None:
        import numpy as np
        import torch

        from gamegen.models.checkpoint import LatentDecoder
        from gamegen.models.variants import Variant

        # What is compiled below takes its number from here; the thread that uses it sets its own.
        torch.set_num_threads(settings.threads)
        loaded = Variant.parse(model).load()
        self._decoder = LatentDecoder(loaded)
        self._jpeg_quality = settings.jpeg_quality
        self._thread = ThreadPoolExecutor(
            1, "decoder", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )
        self._decode_batch.set_max_batch_size(settings.max_batch)  # type: ignore[attr-defined]
        size = (loaded.config.width, loaded.config.height)
        blank = np.zeros(loaded.config.latent_shape, np.float16)
        self._thread.submit(self._decode, [DecodeRequest(blank, None, size)]).result()

    async def decode(self, request: DecodeRequest) -> DecodedChunk:
        """Four JPEG frames of one chunk."""
        return await self._decode_batch(request)

    @serve.batch(batch_wait_timeout_s=0.001)
    async def _decode_batch(self, requests: list[DecodeRequest]) -> list[DecodedChunk]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._decode, requests)

    def _decode(self, requests: list[DecodeRequest]) -> list[DecodedChunk]:
        import torch

        from gamegen.video import encode_jpegs, resize_to

        start = time.perf_counter()
        # Copied, because arrays that crossed a handle may be read-only views.
        latents = [torch.from_numpy(r.latent.copy()) for r in requests]
        previous = [None if r.previous is None else torch.from_numpy(r.previous.copy()) for r in requests]
        chunks = self._decoder.decode(latents, previous).numpy()
        jpegs = [
            encode_jpegs(resize_to(frames, request.size), self._jpeg_quality)
            for frames, request in zip(chunks, requests, strict=True)
        ]
        decode_ms = 1000 * (time.perf_counter() - start)
        return [DecodedChunk(files, decode_ms) for files in jpegs]
