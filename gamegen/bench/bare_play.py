"""Play without a server: the engine and the decoder side by side in one process, as replicas run them."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from gamegen.controls import FPS, FRAMES_PER_CHUNK, Control
from gamegen.models.latent_decoder import LatentDecoder
from gamegen.models.text import TextStates
from gamegen.models.variants import Variant
from gamegen.video import encode_jpegs
from gamegen.world import EngineConfig, WorldEngine

_SETTLING_S = 2.0


@dataclass(frozen=True)
class BareRun:
    """`frames_per_s` of all sessions together, and how long each chunk took from its beginning to its first JPEG."""

    frames_per_s: float
    first_frames_s: np.ndarray


class BarePlay:
    """Draws one world for each session, all in one step, with so many threads for the engine and the decoder each.

    Like a server it begins a chunk when there is a turn for it, 24 frames a second at most, and draws the next one
    while the decoder is busy with the last.
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
        for seed, session in enumerate(self._operations):
            self._engine.open(session, prompt, seed=seed)
        self._memory: list[torch.Tensor | None] = [None] * sessions
        self.run(_SETTLING_S)

    def run(self, seconds: float) -> BareRun:
        """Plays for so long; the worlds go on from where they were."""
        return self._engine_thread.submit(self._play, seconds).result()

    def _play(self, seconds: float) -> BareRun:
        began_s = due_s = time.perf_counter()
        decoding: Future[float] | None = None
        first_frames_s: list[float] = []
        while time.perf_counter() - began_s < seconds:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            due_s = max(due_s, time.perf_counter() - FRAMES_PER_CHUNK / FPS) + FRAMES_PER_CHUNK / FPS
            chunk_s = time.perf_counter()
            drawn = self._engine.step(self._operations)
            latents = [torch.from_numpy(drawn[session]) for session in self._operations]
            if decoding:
                first_frames_s.append(decoding.result())
            decoding = self._decoder_thread.submit(self._decode, latents, self._memory, chunk_s)
            self._memory = [*latents]
            self._engine.commit()
        if decoding:
            first_frames_s.append(decoding.result())
        frames = FRAMES_PER_CHUNK * len(self._operations) * len(first_frames_s)
        # The last chunk's own time counts too, of which it may have needed a part only.
        return BareRun(frames / (max(due_s, time.perf_counter()) - began_s), np.array(first_frames_s))

    def _decode(
        self, latents: list[torch.Tensor], memory: list[torch.Tensor | None], chunk_s: float
    ) -> float:
        """Returns the seconds from the chunk's beginning to its first JPEG of the last session."""
        first_s: float | None = None
        for part in self._decoder.decode_in_parts(latents, memory):
            for video in part.numpy():
                encode_jpegs(video)
            first_s = first_s or time.perf_counter() - chunk_s
        assert first_s is not None
        return first_s


def _thread(num_threads: int) -> ThreadPoolExecutor:
    """A thread whose computations use so many."""
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(num_threads,))
