"""Decoder replicas: latents to JPEG files or fragments of MP4."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from ray import serve

from deployments.replicas.chunk_encoder import ChunkEncoder
from deployments.replicas.messages import DecodedFrames, DecodeRequest
from deployments.settings import DecoderSettings

if TYPE_CHECKING:
    from torch import Tensor

    from gamegen.models.streaming_decoder import Reference


@serve.deployment(name="Decoder")
class DecoderDeployment:
    """The streaming decoder and the encoders of files; stateless, since each request brings what came before it."""

    def __init__(self, model: str, settings: DecoderSettings) -> None:
        import torch

        from gamegen.engine.latent_decoder import LatentDecoder
        from gamegen.engine.variants import Variant

        # Compilation below takes its number of threads from here; the thread that decodes sets its own.
        torch.set_num_threads(settings.threads)
        # The engine has put the detail of exemplars into the reference.
        loaded = dataclasses.replace(Variant.parse(model), exemplars=False).load()
        self._decoder = LatentDecoder(loaded)
        self._settings = settings
        self._thread = ThreadPoolExecutor(
            1, "decoder", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )
        size = (loaded.config.width, loaded.config.height)
        blank = np.zeros(loaded.config.latent_shape, np.float16)
        first = DecodeRequest(latent=blank, previous=blank, size=size)
        self._thread.submit(lambda: [*self._decode([first])]).result()

    async def decode(self, requests: list[DecodeRequest]) -> AsyncIterator[list[DecodedFrames]]:
        """Yields the files of each chunk as they are made: the first frame, then the other three, or one fragment."""
        loop, parts = asyncio.get_running_loop(), self._decode(requests)
        while (part := await loop.run_in_executor(self._thread, next, parts, None)) is not None:
            yield part

    def _decode(self, requests: list[DecodeRequest]) -> Iterator[list[DecodedFrames]]:
        import torch

        start = time.perf_counter()
        # Copied, because arrays that crossed a handle may be read-only views.
        latents = [torch.from_numpy(request.latent.copy()) for request in requests]
        memories = [None if r.previous is None else torch.from_numpy(r.previous.copy()) for r in requests]
        reference = _references(requests, torch.stack(latents))
        encoders = [ChunkEncoder(request, self._settings) for request in requests]
        for part in self._decoder.decode_in_parts(latents, memories, reference):
            files = [encoder.take(frames) for encoder, frames in zip(encoders, part.numpy(), strict=True)]
            decode_ms = 1000 * (time.perf_counter() - start)
            yield [DecodedFrames(made, decode_ms) for made in files]


def _references(requests: list[DecodeRequest], latents: Tensor) -> Reference:
    from gamegen.models.streaming_decoder import Reference

    rows = [None if r.reference is None else Reference.from_arrays(r.reference) for r in requests]
    return Reference.batch(rows, latents)
