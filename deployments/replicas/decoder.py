"""Decoder replicas: latents to JPEG files or fragments of MP4, so that raw frames never cross a handle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from ray import serve

from deployments.replicas.chunk_encoder import ChunkEncoder
from deployments.replicas.messages import DecodedFrames, DecodeRequest
from deployments.settings import DecoderSettings


@serve.deployment(name="Decoder")
class DecoderDeployment:
    """The streaming decoder and the encoders of files; stateless, since each request brings the latent before it."""

    def __init__(self, model: str, settings: DecoderSettings) -> None:
        import torch

        from gamegen.engine.latent_decoder import LatentDecoder
        from gamegen.engine.variants import Variant

        # Compilation below takes its number of threads from here; the thread that decodes sets its own.
        torch.set_num_threads(settings.threads)
        loaded = Variant.parse(model).load()
        self._decoder = LatentDecoder(loaded)
        self._settings = settings
        self._thread = ThreadPoolExecutor(
            1, "decoder", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )
        size = (loaded.config.width, loaded.config.height)
        blank = np.zeros(loaded.config.latent_shape, np.float16)
        self._thread.submit(
            lambda: [*self._decode([DecodeRequest(latent=blank, previous=None, size=size)])]
        ).result()

    async def decode(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        """Yields the files of each chunk as they are made: the first frame, then the other three, or one fragment."""
        loop, parts = asyncio.get_running_loop(), self._decode(requests)
        while (part := await loop.run_in_executor(self._thread, next, parts, None)) is not None:
            yield part

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
