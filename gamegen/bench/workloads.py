"""Workloads of benchmarks: a chunk of play, a clip, a chunk through the autoencoder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from gamegen.constants import FRAMES_PER_CHUNK, SPATIAL_FACTOR
from gamegen.controls import Control
from gamegen.engine.conditioning import idle_operations
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.latent_decoder import LatentDecoder, StreamPast
from gamegen.engine.motion_prediction import build_motion_prediction
from gamegen.engine.variants import Variant
from gamegen.generation.renderer import ClipConfig, ClipRenderer
from gamegen.media.images import encode_jpegs
from gamegen.models.counts import Latents, chunk_flops, chunk_pass_flops, motion_flops, vae_flops
from gamegen.models.folding import from_pixels, to_pixels
from gamegen.models.layered_warp import split_layers
from gamegen.models.motion import NUM_OPERATIONS, PredictedMotion
from gamegen.models.text import TextEncoder, TextStates
from gamegen.pipeline import VideoPipeline

PROMPT = "first-person view of a forest at noon"


class WorldWorkload:
    """One chunk of play per session: denoising, decoding, JPEG, then the commit to the KV caches."""

    stages = ("denoise", "engine, besides", "decode", "jpeg", "commit")

    def __init__(self, variant: Variant, text_encoder: TextEncoder) -> None:
        model = variant.load_or_draw()
        self.sessions = [str(i) for i in range(variant.sessions)]
        self.engine = WorldEngine(model, EngineConfig(max_sessions=variant.sessions))
        self.frames_per_round = FRAMES_PER_CHUNK * variant.sessions
        self.passes = self.engine.runner.frame_pass = TimedPass(self.engine)
        states = text_encoder.encode([PROMPT])[0]
        for i, session in enumerate(self.sessions):
            self.engine.open(session, states, seed=i)
        self.flop_per_round = variant.sessions * chunk_flops(model.config, len(states.tokens))
        self._operations = Control({"w"}).operations()
        # The first chunk takes more steps, and the caches fill up.
        for _ in range(self.engine.history + 1):
            self.round()

    def round(self) -> Sequence[float]:
        """One chunk of every session."""
        self.passes.seconds.clear()
        began = time.perf_counter()
        self.engine.step(dict.fromkeys(self.sessions, self._operations))
        stepped = time.perf_counter()
        frames = [self.engine.frames(session) for session in self.sessions]
        decoded = time.perf_counter()
        for video in frames:
            encode_jpegs(video)
        shown = time.perf_counter()
        denoise = sum(self.passes.seconds)
        self.engine.commit()
        synchronise(self.engine.model.device)
        committed = time.perf_counter()
        return denoise, stepped - began - denoise, decoded - stepped, shown - decoded, committed - shown


class TimedPass:
    """Wrapper of an engine's forward pass that records the seconds of every call."""

    def __init__(self, engine: WorldEngine) -> None:
        self.seconds: list[float] = []
        self._pass, self._device = engine.runner.frame_pass, engine.model.device

    def __call__(self, *inputs: Any) -> torch.Tensor:
        """Velocity from the wrapped pass."""
        synchronise(self._device)
        began = time.perf_counter()
        velocity = self._pass(*inputs)
        synchronise(self._device)
        self.seconds.append(time.perf_counter() - began)
        return velocity


class ClipWorkload:
    """A whole clip: text encoding, denoising of every chunk, decoding with the large decoder."""

    stages = ("text", "denoise", "commit", "decode and the rest")

    def __init__(self, variant: Variant, text_encoder: TextEncoder, num_frames: int) -> None:
        model = variant.load_or_draw()
        self.frames_per_round = num_frames
        self._encoder = TimedEncoder(text_encoder)
        renderer = ClipRenderer(model, ClipConfig(max_drawings=1))
        self.pipeline = VideoPipeline(renderer, self._encoder)
        config = model.config
        engine = renderer.engine((config.width, config.height))
        self.passes = engine.runner.frame_pass = TimedPass(engine)
        chunks = -(-num_frames // FRAMES_PER_CHUNK)
        sampling = config.sampling
        first, later = (sampling.passes(n, n) for n in (sampling.first_steps, sampling.num_steps))
        _, rows, columns = config.latent_shape
        decode = vae_flops(config, Latents(1, rows, columns)).decode * chunks
        one_pass = chunk_pass_flops(config, len(text_encoder.encode([PROMPT])[0].tokens)).total
        # No chunk depends on the last one: it is not committed.
        self.flop_per_round = (first + (later + 1) * (chunks - 1)) * one_pass + decode
        self._clips = 0
        self._per_chunk = [first + 1] + [later + 1] * (chunks - 1)

    def round(self) -> Sequence[float]:
        """One clip."""
        self.passes.seconds.clear()
        began = time.perf_counter()
        # Encoders cache texts, so each clip gets a new one.
        self._clips += 1
        self.pipeline.generate(f"{PROMPT}, take {self._clips}", num_frames=self.frames_per_round)
        whole = time.perf_counter() - began
        # Chunks are decoded between passes, which the passes' own seconds leave out.
        commits = np.cumsum(self._per_chunk[:-1]) - 1
        passes = np.array(self.passes.seconds)
        commit = float(passes[commits].sum())
        denoise = float(passes.sum()) - commit
        text = self._encoder.seconds
        return text, denoise, commit, whole - text - denoise - commit


class TimedEncoder:
    """Wrapper of a text encoder that records the seconds of its last call."""

    def __init__(self, encoder: TextEncoder) -> None:
        self._encoder = encoder
        self.seconds = 0.0

    def encode(self, texts: list[str]) -> list[TextStates]:
        """Encodes by the wrapped encoder."""
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
        """One chunk through encoder and both decoders."""
        device = self.model.device
        weight = next(self.vae.parameters())
        began = time.perf_counter()
        latent = self.vae.encode(from_pixels(self.frames)[None].to(device, weight.dtype))
        synchronise(device)
        encoded = time.perf_counter()
        to_pixels(self.vae.decode(latent)[0].float()).cpu()
        decoded = time.perf_counter()
        self.decoder.decode([self.model.normalise(latent[0, 0]).cpu()], [StreamPast()], [idle_operations()])
        return encoded - began, decoded - encoded, time.perf_counter() - decoded


class MotionWorkload:
    """The motion of one chunk, and its frames warped by it."""

    stages = ("predict", "warp")
    frames_per_round = FRAMES_PER_CHUNK

    def __init__(self, variant: Variant) -> None:
        model = variant.load_or_draw()
        if model.motion is None:
            raise ValueError(f"{variant.text}: has no motion network: train one with gamegen train motion")
        config, self.device = model.config, model.device
        self.predict = build_motion_prediction(model, config.latent_shape)
        self.flop_per_round = motion_flops(model.motion.config, config.height, config.width)
        generator = torch.Generator().manual_seed(0)
        frames = torch.rand(2, 3, config.height, config.width, generator=generator) * 2 - 1
        self.frames = frames.to(self.device)
        operation = Control({"w"}, yaw_deg=1.0).operations()[:1]
        self.operations = torch.from_numpy(operation.repeat(NUM_OPERATIONS, 0))[None].to(self.device)

    @torch.inference_mode()
    def round(self) -> Sequence[float]:
        """One chunk's motion and frames."""
        before, last = self.frames[:1], self.frames[1:]
        began = time.perf_counter()
        motion = PredictedMotion(*self.predict(last, before, self.operations))
        synchronise(self.device)
        predicted = time.perf_counter()
        split_layers(motion).move(last)
        synchronise(self.device)
        return predicted - began, time.perf_counter() - predicted


def synchronise(device: torch.device) -> None:
    """Waits until a device has finished its queued work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
