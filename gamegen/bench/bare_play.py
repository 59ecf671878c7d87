"""Benchmark of play without a server: engine and decoder in two threads of one process."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.controls import Control
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder
from gamegen.engine.variants import Variant
from gamegen.media.images import encode_jpegs
from gamegen.models.streaming_decoder import Reference
from gamegen.models.text import TextStates

_SETTLING_S = 2.0


@dataclass(frozen=True)
class BareRun:
    """Frames per second of all sessions together, and each chunk's seconds from its start to its first JPEG."""

    frames_per_s: float
    first_frames_s: np.ndarray


class BarePlay:
    """Plays one world per session in one batch, with the given numbers of threads for the engine and the decoder.

    Like a server it generates at most 24 frames a second, and a chunk while the decoder decodes the last one.
    """

    def __init__(
        self, variant: Variant, prompt: TextStates, sessions: int, engine_threads: int, decoder_threads: int
    ) -> None:
        model = variant.load()
        self._engine_thread = _thread(engine_threads)
        self._decoder_thread = _thread(decoder_threads)
        torch.set_num_threads(engine_threads)
        self._engine = WorldEngine(model, EngineConfig(sessions))
        self._decoder = LatentDecoder(model)
        self._operations = {str(i): Control({"w"}).operations() for i in range(sessions)}
        self._previous: list[torch.Tensor | None] = [None] * sessions
        for seed, session in enumerate(self._operations):
            self._engine.open(session, prompt, seed=seed)
        self.run(_SETTLING_S)

    def run(self, seconds: float) -> BareRun:
        """Plays for `seconds`; the worlds continue from where they were."""
        return self._engine_thread.submit(self._play, seconds).result()

    def _play(self, seconds: float) -> BareRun:
        began_s = due_s = time.perf_counter()
        decoding: Future[float] | None = None
        first_frames_s: list[float] = []
        while time.perf_counter() - began_s < seconds:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            due_s = max(due_s, time.perf_counter() - FRAMES_PER_CHUNK / FPS) + FRAMES_PER_CHUNK / FPS
            chunk_s = time.perf_counter()
            chunks = self._engine.step(self._operations)
            latents = [torch.from_numpy(chunks[session]) for session in self._operations]
            references = [self._engine.reference(session) for session in self._operations]
            reference = Reference.batch(references, torch.stack(latents))
            if decoding:
                first_frames_s.append(decoding.result())
            decoding = self._decoder_thread.submit(self._decode, latents, self._previous, reference, chunk_s)
            self._previous = [*latents]
            self._engine.commit()
        if decoding:
            first_frames_s.append(decoding.result())
        frames = FRAMES_PER_CHUNK * len(self._operations) * len(first_frames_s)
        # The last chunk's whole period counts, though it may have needed a part of it only.
        return BareRun(frames / (max(due_s, time.perf_counter()) - began_s), np.array(first_frames_s))

    def _decode(
        self,
        latents: list[torch.Tensor],
        previous: list[torch.Tensor | None],
        reference: Reference,
        chunk_s: float,
    ) -> float:
        """Seconds from the chunk's start until every session has its first JPEG."""
        first_s: float | None = None
        for part in self._decoder.decode_in_parts(latents, previous, reference):
            for video in part.numpy():
                encode_jpegs(video)
            first_s = first_s or time.perf_counter() - chunk_s
        assert first_s is not None
        return first_s


def _thread(num_threads: int) -> ThreadPoolExecutor:
    """A thread in which PyTorch computes with `num_threads` threads."""
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(num_threads,))
