"""The rounds that benchmarks time: a chunk of play, a clip, the autoencoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gamegen.clips.renderer import ClipConfig, ClipRenderer
from gamegen.controls import FRAMES_PER_CHUNK, Control
from gamegen.models.counts import Latents, chunk_flops, chunk_pass_flops, vae_flops
from gamegen.models.latent_decoder import LatentDecoder
from gamegen.models.text import TextEncoder, TextStates
from gamegen.models.vae import SPATIAL_FACTOR, from_pixels, to_pixels
from gamegen.models.variants import Variant
from gamegen.pipeline import VideoPipeline
from gamegen.video import encode_jpegs
from gamegen.world import EngineConfig, WorldEngine

PROMPT = "first-person view of a forest at noon"


class WorldWorkload:
    """One chunk of play for each session: denoising, decoding, JPEG, then committing it to the cache."""

    stages = ("denoise", "engine, besides", "decode", "jpeg", "commit")

    def __init__(self, variant: Variant, text_encoder: TextEncoder) -> None:
        model = variant.load_or_draw()
        self.sessions = [str(i) for i in range(variant.sessions)]
        self.engine = WorldEngine(model, EngineConfig(max_sessions=variant.sessions))
        self.decoder = LatentDecoder(model)
        self.memory: list[torch.Tensor | None] = [None] * variant.sessions
        self.frames_per_round = FRAMES_PER_CHUNK * variant.sessions
        self.passes = self.engine.frame_pass = TimedPass(self.engine)
        states = text_encoder.encode([PROMPT])[0]
        for i, session in enumerate(self.sessions):
            self.engine.open(session, states, seed=i)
        self.flop_per_round = variant.sessions * chunk_flops(model.config, len(states.tokens))
        self._operations = Control({"w"}).operations()
        # The first chunk takes more steps, and the cache fills up.
        for _ in range(self.engine.history + 1):
            self.round()

    def round(self) -> Sequence[float]:
        """One chunk of every session."""
        self.passes.seconds.clear()
        began = time.perf_counter()
        drawn = self.engine.step(dict.fromkeys(self.sessions, self._operations))
        stepped = time.perf_counter()
        latents = [torch.from_numpy(drawn[session]) for session in self.sessions]
        frames = self.decoder.decode(latents, self.memory).numpy()
        decoded = time.perf_counter()
        self.memory = list(latents)
        for video in frames:
            encode_jpegs(video)
        shown = time.perf_counter()
        denoise = sum(self.passes.seconds)
        self.engine.commit()
        synchronise(self.engine.model.device)
        committed = time.perf_counter()
        return denoise, stepped - began - denoise, decoded - stepped, shown - decoded, committed - shown


class TimedPass:
    """An engine's pass that notes the seconds of every call."""

    def __init__(self, engine: WorldEngine) -> None:
        self.seconds: list[float] = []
        self._pass, self._device = engine.frame_pass, engine.model.device

    def __call__(self, *inputs: Any) -> torch.Tensor:
        """What the pass returns."""
        synchronise(self._device)
        began = time.perf_counter()
        velocity = self._pass(*inputs)
        synchronise(self._device)
        self.seconds.append(time.perf_counter() - began)
        return velocity


class ClipWorkload:
    """A whole clip from its prompt: text encoding, drawing every chunk, decoding with the large decoder."""

    stages = ("text", "denoise", "commit", "decode and the rest")

    def __init__(self, variant: Variant, text_encoder: TextEncoder, num_frames: int) -> None:
        model = variant.load_or_draw()
        self.frames_per_round = num_frames
        self._encoder = TimedEncoder(text_encoder)
        renderer = ClipRenderer(model, ClipConfig(max_drawings=1))
        self.pipeline = VideoPipeline(renderer, self._encoder)
        config = model.config
        engine = renderer.engine((config.width, config.height))
        self.passes = engine.frame_pass = TimedPass(engine)
        chunks = -(-num_frames // FRAMES_PER_CHUNK)
        sampling = config.sampling
        guided = 1 if sampling.guidance_scale == 1 else 2
        steps = sampling.first_steps + sampling.num_steps * (chunks - 1)
        _, rows, columns = config.latent_shape
        decode = vae_flops(config, Latents(1, rows, columns)).decode * chunks
        one_pass = chunk_pass_flops(config, len(text_encoder.encode([PROMPT])[0].tokens)).total
        # Nobody remembers the last chunk: it is not committed.
        self.flop_per_round = (steps * guided + chunks - 1) * one_pass + decode
        self._clips = 0
        self._per_chunk = [sampling.first_steps * guided + 1] + [sampling.num_steps * guided + 1] * (
            chunks - 1
        )

    def round(self) -> Sequence[float]:
        """One clip."""
        self.passes.seconds.clear()
        began = time.perf_counter()
        # Encoders remember texts: each clip has one of its own.
        self._clips += 1
        self.pipeline.generate(f"{PROMPT}, take {self._clips}", self.frames_per_round)
        whole = time.perf_counter() - began
        commits = np.cumsum(self._per_chunk[:-1]) - 1
        passes = np.array(self.passes.seconds)
        commit = float(passes[commits].sum())
        denoise = float(passes.sum()) - commit
        text = self._encoder.seconds
        return text, denoise, commit, whole - text - denoise - commit


class TimedEncoder:
    """A text encoder that notes how long its last texts took."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.seconds = 0.0

    def encode(self, texts: list[str]) -> list[TextStates]:
        """As the encoder inside."""
        began = time.perf_counter()
        states = self._encoder.encode(texts)
        self.seconds = time.perf_counter() - began
        return states


class AutoencoderWorkload:
    """One chunk through the encoder, the large decoder and the streaming one."""

    stages = ("encode", "decode", "decode, streaming")
    frames_per_round = FRAMES_PER_CHUNK

    def __init__(self, variant: Variant) -> None:
        model = variant.load_or_draw()
        self.vae, self.decoder, self.model = model.vae, LatentDecoder(model), model
        config = model.config
        rows, columns = config.height // SPATIAL_FACTOR, config.width // SPATIAL_FACTOR
        flops = vae_flops(config, Latents(1, rows, columns))
        self.flop_per_round = flops.encode + flops.decode + flops.stream
        generator = torch.Generator().manual_seed(0)
        shape = (FRAMES_PER_CHUNK, config.height, config.width, 3)
        self.frames = torch.randint(256, shape, generator=generator, dtype=torch.uint8)

    @torch.inference_mode()
    def round(self) -> Sequence[float]:
        """One chunk each way."""
        device = self.model.device
        weight = next(self.vae.parameters())
        began = time.perf_counter()
        latent = self.vae.encode(from_pixels(self.frames)[None].to(device, weight.dtype))
        synchronise(device)
        encoded = time.perf_counter()
        to_pixels(self.vae.decode(latent)[0].float()).cpu()
        decoded = time.perf_counter()
        self.decoder.decode([self.model.normalise(latent[0, 0]).cpu()], [None])
        return encoded - began, decoded - encoded, time.perf_counter() - decoded


def synchronise(device: torch.device) -> None:
    """Waits for what a device was given to do."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
