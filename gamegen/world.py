"""Playable world: engine, text encoder and streaming decoder of one session, for notebooks and the command line.

    world = World.load("nano")
    world.reset(prompt="snowy forest at night", seed=7)
    frames = world.step(Control(keys={"w"}))          # (4, H, W, 3) uint8
    world.instruct("make it rain")
    state = world.snapshot(); other.restore(state)

`WorldEngine` batches many sessions; see `gamegen.engine.engine`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gamegen.controls import Control as PlayerControl
from gamegen.engine.engine import EngineConfig, WorldEngine
from gamegen.engine.snapshot import WorldSnapshot
from gamegen.engine.variants import Variant
from gamegen.engine.video_prompts import encode_video_prompt
from gamegen.gallery.gallery import Gallery
from gamegen.gallery.opening import find_gallery, start_opening
from gamegen.media.first_frames import check_frames_fit
from gamegen.media.recorded_start import RecordedStart
from gamegen.models.opening import Opening
from gamegen.models.text import TextEncoder, compose_prompt, load_text_encoder
from gamegen.sessions.start import StartKind, resolve_start


class World:
    """One session of an engine, with text encoder and streaming decoder."""

    SESSION = "world"

    def __init__(
        self, engine: WorldEngine, text_encoder: TextEncoder, gallery: Gallery | None = None
    ) -> None:
        self.engine = engine
        self.text_encoder = text_encoder
        self.gallery = gallery

    @classmethod
    def load(cls, name_or_path: str | Path = "nano", device: str | None = None) -> World:
        """Loads a checkpoint with the gallery of its latents, if there is one; raises CheckpointError."""
        engine = WorldEngine.load(name_or_path, device, EngineConfig(max_sessions=1))
        gallery = find_gallery(engine.model, Variant.parse(str(name_or_path)).model)
        return cls(engine, load_text_encoder(engine.model.config.text_encoder), gallery)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames in pixels."""
        return self.engine.model.config.width, self.engine.model.config.height

    def reset(
        self,
        prompt: str,
        seed: int = 0,
        perspective: str = "first",
        first_frames: np.ndarray | None = None,
        start: StartKind | RecordedStart | None = None,
    ) -> RecordedStart | None:
        """Starts a new world; returns the recorded start that it continues, None if it continues none.

        With `start` "picture" it continues `first_frames`, uint8 `(4n, H, W, 3)` of the world's size; with "gallery" a
        moment that the gallery has for the prompt, or the given one; "drawn" draws it from words alone. None takes the
        first of these that can be had. Raises ValueError for a start that cannot, an unknown perspective, a prompt of
        too many tokens or frames of another size.
        """
        states = self.text_encoder.encode([compose_prompt(prompt, perspective)])[0]
        has_picture, has_gallery = first_frames is not None, self.gallery is not None
        recorded = start if isinstance(start, RecordedStart) else None
        wanted = "gallery" if isinstance(start, RecordedStart) else start
        kind = resolve_start(wanted, has_picture=has_picture, has_gallery=has_gallery or recorded is not None)
        if kind == "gallery" and recorded is None and self.gallery is not None:
            recorded = self.gallery.choose(states.pooled.numpy(), perspective, seed)
        opening = None
        if recorded is not None:
            opening = start_opening(recorded, self.engine.model)
        elif first_frames is not None:
            check_frames_fit(first_frames, self.size)
            opening = Opening.of_frames(first_frames, self.engine.model)
        self.engine.open(self.SESSION, states, seed, opening)
        return recorded

    def instruct(self, text: str | None, blend_chunks: int = 0) -> None:
        """Puts an instruction in force from the next chunk on, fully `blend_chunks` later; None lifts it.

        Raises ValueError for a text of too many tokens or a blend of more than `MAX_BLEND_CHUNKS`.
        """
        instruction = self.text_encoder.encode([text])[0] if text else None
        self.engine.instruct(self.SESSION, instruction, blend_chunks)

    def prompt_video(self, frames: np.ndarray | None, kind: str = "canny") -> None:
        """Conditions the next chunks on a video, one for each 4 of its frames; None ends that.

        `frames` uint8 `(F, H, W, 3)` and `kind` as in `encode_video_prompt`, which also lists the errors raised.
        """
        latents = None if frames is None else encode_video_prompt(self.engine.model, frames, kind)
        self.engine.prompt_video(self.SESSION, latents)

    def step(self, control: PlayerControl) -> np.ndarray:
        """The next chunk, uint8 `(4, H, W, 3)`."""
        return self.step_operations(control.operations())

    def step_operations(self, operations: np.ndarray) -> np.ndarray:
        """The next chunk under per-frame operation vectors `(4, OPERATION_SIZE)`, uint8 `(4, H, W, 3)`."""
        self.engine.step({self.SESSION: operations})
        return self.engine.frames(self.SESSION)

    def snapshot(self) -> WorldSnapshot:
        """The world at this chunk boundary; see `WorldSnapshot`."""
        return self.engine.snapshot(self.SESSION)

    def restore(self, snapshot: WorldSnapshot) -> None:
        """Continues from a snapshot, of this world or another."""
        self.engine.restore(self.SESSION, snapshot)
