"""Latents to JPEG files or fragments of MP4: raw pixels never cross a handle."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

from ray import serve

from deployments.encoding import ChunkEncoder
from deployments.messages import DecodedFrames, DecodeRequest
from deployments.settings import DecoderSettings


@serve.deployment(name="Decoder")
class DecoderDeployment:
    """The streaming decoder and the encoders; holds no session, since each request brings its memory."""

    def __init__(self, model: str, settings: DecoderSettings) -> None:
        import numpy as np
        import torch

        from gamegen.models.latent_decoder import LatentDecoder
        from gamegen.models.variants import Variant

        # What is compiled below takes its number from here; the thread that uses it sets its own.
        torch.set_num_threads(settings.threads)
        loaded = Variant.parse(model).load()
        self._decoder = LatentDecoder(loaded)
        self._settings = settings
        self._thread = ThreadPoolExecutor(
            1, "decoder", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )
        size = (loaded.config.width, loaded.config.height)
        blank = np.zeros(loaded.config.latent_shape, np.float16)
        self._thread.submit(lambda: [*self._decode([DecodeRequest(blank, None, size)])]).result()

    async def decode(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        """Yields each chunk's first frame as soon as it is drawn, then its other three; a fragment has all four."""
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
