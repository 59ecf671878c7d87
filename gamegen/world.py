"""A playable world: engine, text encoder and decoder together, for notebooks and the command line.

    world = World.load("nano")
    world.reset(prompt="snowy forest at night", seed=7)
    frames = world.step(Control(keys={"w"}))          # (4, H, W, 3) uint8
    world.instruct("make it rain")
    state = world.snapshot(); other.restore(state)

`WorldEngine` runs many sessions in one forward; see `gamegen.engine`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gamegen.controls import FRAMES_PER_CHUNK
from gamegen.controls import Control as PlayerControl
from gamegen.engine import EngineConfig, UnknownSessionError, WorldEngine
from gamegen.models.latent_decoder import LatentDecoder
from gamegen.models.text import TextEncoder, load_text_encoder
from gamegen.snapshot import WorldSnapshot
from gamegen.video_prompts import encode_video_prompt

__all__ = [
    "EngineConfig",
    "UnknownSessionError",
    "World",
    "WorldEngine",
    "WorldSnapshot",
    "check_frames_fit",
    "compose_prompt",
    "encode_video_prompt",
]

PERSPECTIVES = {"first": "first-person", "third": "third-person"}


class World:
    """One playable world: engine, text encoder and streaming decoder together."""

    SESSION = "world"

    def __init__(self, engine: WorldEngine, text_encoder: TextEncoder) -> None:
        self.engine = engine
        self.text_encoder = text_encoder
        self.decoder = LatentDecoder(engine.model)
        self._memory: Tensor | None = None

    @classmethod
    def load(cls, name_or_path: str | Path = "nano", device: str | None = None) -> World:
        """Loads a checkpoint; raises CheckpointError."""
        engine = WorldEngine.load(name_or_path, device, EngineConfig(max_sessions=1))
        return cls(engine, load_text_encoder(engine.model.config.text_encoder))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.engine.model.config.width, self.engine.model.config.height

    def reset(
        self, prompt: str, seed: int = 0, perspective: str = "first", first_frames: np.ndarray | None = None
    ) -> None:
        """Begins a new world; `first_frames` uint8 `(4n, H, W, 3)` of the world's size are what it goes on from.

        Raises ValueError for an unknown perspective, a prompt of too many tokens or frames of another size.
        """
        states = self.text_encoder.encode([compose_prompt(prompt, perspective)])[0]
        if first_frames is not None:
            check_frames_fit(first_frames, self.size)
        first = None if first_frames is None else self.engine.model.encode(first_frames)
        self.engine.open(self.SESSION, states, seed, first)
        # Rounded as every latent that is kept, so that a restored world shows the same.
        self._memory = None if first is None else first[-1].half()

    def instruct(self, text: str | None, blend_chunks: int = 0) -> None:
        """Says what should change, from the next chunk on, and entirely `blend_chunks` later; None takes it back.

        Raises ValueError for a text of too many tokens or a blend of more than `MAX_BLEND_CHUNKS`.
        """
        instruction = self.text_encoder.encode([text])[0] if text else None
        self.engine.instruct(self.SESSION, instruction, blend_chunks)

    def prompt_video(self, frames: np.ndarray | None, kind: str = "canny") -> None:
        """Has the next chunks follow a video, a chunk for each 4 of its frames; None ends that.

        `frames` uint8 `(F, H, W, 3)` and `kind` as in `encode_video_prompt`, which says what raises ValueError.
        """
        latents = None if frames is None else encode_video_prompt(self.engine.model, frames, kind)
        self.engine.prompt_video(self.SESSION, latents)

    def step(self, control: PlayerControl) -> np.ndarray:
        """The next chunk, uint8 `(4, H, W, 3)`."""
        return self.step_operations(control.operations())

    def step_operations(self, operations: np.ndarray) -> np.ndarray:
        """The next chunk under per-frame operation vectors `(4, OPERATION_SIZE)`, uint8 `(4, H, W, 3)`."""
        latent = torch.from_numpy(self.engine.step({self.SESSION: operations})[self.SESSION])
        frames = self.decoder.decode([latent], [self._memory])[0].numpy()
        self._memory = latent
        return frames

    def snapshot(self) -> WorldSnapshot:
        """The world at this chunk boundary; see `WorldSnapshot`."""
        return self.engine.snapshot(self.SESSION)

    def restore(self, snapshot: WorldSnapshot) -> None:
        """Continues from a snapshot, of this world or another."""
        self.engine.restore(self.SESSION, snapshot)
        self._memory = snapshot.chunks[-1].latent if snapshot.chunks else None


def compose_prompt(prompt: str, perspective: str) -> str:
    """The prompt with its perspective in front, in the words training used."""
    if perspective not in PERSPECTIVES:
        raise ValueError(f"perspective = {perspective!r}: use one of {', '.join(PERSPECTIVES)}")
    return f"{PERSPECTIVES[perspective]}, {prompt.strip()}"


def check_frames_fit(frames: np.ndarray, size: tuple[int, int]) -> None:
    """Raises ValueError unless frames `(T, H, W, 3)` are whole chunks of the world's (width, height)."""
    if frames.shape[1:] != (size[1], size[0], 3):
        raise ValueError(
            f"the first frames are {frames.shape[2]}x{frames.shape[1]}: resize them to {size[0]}x{size[1]}"
        )
    if not len(frames) or len(frames) % FRAMES_PER_CHUNK:
        raise ValueError(
            f"{len(frames)} first frames: a chunk has {FRAMES_PER_CHUNK}, a picture is one of equal frames"
        )
