"""What an evaluation works with: its lengths, the model under test, real clips and judges."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

from gamegen.config import to_dict
from gamegen.controls import FPS, FRAMES_PER_CHUNK
from gamegen.evaluation.external import Judges
from gamegen.evaluation.real import SHIPPED_CLIPS, RealClip, clips_in, fingerprint, held_out_clips
from gamegen.evaluation.scenes import SceneHeads, load_scenes
from gamegen.models.checkpoint import WEIGHTS_FILE, Model, read_card
from gamegen.models.text import TextEncoder, load_text_encoder
from gamegen.models.variants import Variant

CHUNKS_PER_S = FPS // FRAMES_PER_CHUNK
PIECE_S = 2
"""Long play is measured in pieces of this length."""


@dataclass(frozen=True)
class SuiteConfig:
    """How many worlds are played and for how long; 6 chunks are one second.

    Worlds are opened, stand still for `warm_chunks`, and are measured over the second half of `hold_chunks` under one
    key. They walk for `walk_chunks` to be looked at, for `contrast_chunks` to be compared, for `order_chunks` after an
    instruction. `play_seeds` of them are played for `play_s` seconds (0 leaves that out). Predictions on a real clip
    are given `history_chunks` of it; it is followed under its own keys for `followed_chunks`.
    """

    num_seeds: int = 64
    first_seed: int = 1_000_000
    seeds_per_task: int = 8
    clips_per_task: int = 8
    warm_chunks: int = 3
    hold_chunks: int = 8
    walk_chunks: int = 12
    contrast_chunks: int = 4
    order_chunks: int = 12
    play_s: int = 60
    play_seeds: int = 16
    history_chunks: int = 8
    predictions_per_clip: int = 2
    windows_per_clip: int = 3
    continuations: int = 4
    continuation_chunks: int = 24
    followed_chunks: int = 18

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ValueError(f"seeds = {self.num_seeds}: play at least one world")
        if self.play_s < 0 or self.play_s % PIECE_S:
            raise ValueError(f"long play of {self.play_s} s: give an even number of seconds")

    @classmethod
    def tiny(cls) -> SuiteConfig:
        """For tests: a few chunks of a few worlds."""
        return cls(
            num_seeds=3,
            seeds_per_task=2,
            clips_per_task=4,
            warm_chunks=1,
            hold_chunks=4,
            walk_chunks=3,
            contrast_chunks=1,
            order_chunks=2,
            play_s=4,
            play_seeds=2,
            history_chunks=2,
            predictions_per_clip=1,
            windows_per_clip=2,
            continuations=1,
            continuation_chunks=2,
            followed_chunks=2,
        )

    def marks_s(self) -> list[int]:
        """Seconds of long play at which the pictures are compared with real ones."""
        wanted = [PIECE_S, *range(10, 60, 10), *range(60, self.play_s + 1, 60), self.play_s]
        return sorted({mark for mark in wanted if 0 < mark <= self.play_s})


@dataclass(frozen=True)
class Options:
    """All that decides the figures of an evaluation: the checkpoint (or a variant of one), real clips, lengths and
    judges.

    Real clips are the held-out ones of the curated shards under `data`, else those of the folder `clips`, else there
    are none and what needs them is left out.
    """

    checkpoint: str
    data: str | None = None
    clips: str | None = None
    config: SuiteConfig = field(default_factory=SuiteConfig)
    judges: Judges = field(default_factory=Judges)

    def real_clips(self) -> list[RealClip]:
        """The real clips that are long enough; raises ValueError or FileNotFoundError where there should be some."""
        if not (self.data or self.clips):
            return []
        found = held_out_clips(Path(self.data)) if self.data else clips_in(Path(str(self.clips)))
        least = FRAMES_PER_CHUNK * max(self.config.walk_chunks, self.config.history_chunks + 2)
        clips = [real for real in found if real.clip.num_frames >= least]
        if len(clips) < 2:
            raise ValueError(
                f"{self.data or self.clips} has {len(clips)} clips of {least} frames: give at least 2"
            )
        return clips

    def weights_sha256(self) -> str:
        """The sum of the weights under test."""
        return read_card(Variant.parse(self.checkpoint).model)["sha256"][WEIGHTS_FILE]

    def fingerprint(self, clips: list[RealClip]) -> str:
        """Short name of everything that decides a task's outcome, but for the length of long play, which is in the
        names of its files; the number of seeds does not."""
        apart = ("num_seeds", "play_seeds", "play_s")
        lengths = {k: v for k, v in to_dict(self.config).items() if k not in apart}
        variant = Variant.parse(self.checkpoint)
        parts = [
            self.weights_sha256(),
            to_dict(variant.config()),
            *([] if variant.precision == "native" else [variant.precision]),
            lengths,
            fingerprint(clips),
            self.judges.sums(),
            load_scenes()[1],
            read_card("idm")["sha256"][WEIGHTS_FILE],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Bench:
    """Options with everything loaded."""

    config: SuiteConfig
    model: Model
    text_encoder: TextEncoder
    heads: SceneHeads
    clips: list[RealClip]
    judges: Judges

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the model's frames in pixels."""
        return self.model.config.width, self.model.config.height


@functools.lru_cache(maxsize=1)
def open_bench(options: Options) -> Bench:
    """Loads what the options name, once a process for the same options."""
    model = Variant.parse(options.checkpoint).load()
    return Bench(
        options.config,
        model,
        load_text_encoder(model.config.text_encoder),
        load_scenes()[0],
        options.real_clips(),
        options.judges,
    )


def default_clips() -> str | None:
    """The repository's own clips, if this is the repository."""
    return str(SHIPPED_CLIPS) if SHIPPED_CLIPS.is_dir() else None
