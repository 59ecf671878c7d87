"""Options of an evaluation and what they load: the model under test, real clips and reference networks."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from gamegen.config import to_dict
from gamegen.constants import FPS, FRAMES_PER_CHUNK
from gamegen.engine.variants import Variant
from gamegen.evaluation.real_clips import RealClip, clips_in, fingerprint, held_out_clips
from gamegen.evaluation.reference_models import ReferenceModels
from gamegen.evaluation.scenes import SceneHeads, load_scenes
from gamegen.evaluation.training_frames import training_features
from gamegen.gallery.gallery import Gallery
from gamegen.gallery.opening import find_gallery, gallery_cards
from gamegen.models.checkpoint import WEIGHTS_FILE, read_card
from gamegen.models.model import Model
from gamegen.models.text import TextEncoder, load_text_encoder
from gamegen.sessions.start import resolve_start

CHUNKS_PER_S = FPS // FRAMES_PER_CHUNK
PIECE_S = 2
"""Length of the pieces in which long play is measured."""


@dataclass(frozen=True, kw_only=True)
class SuiteConfig:
    """Numbers and lengths of the worlds that are played; 6 chunks are one second.

    Worlds are opened, stand still for `warm_chunks`, and are measured over the second half of `hold_chunks` under one
    key. They walk for `walk_chunks` to be measured, for `contrast_chunks` to be compared, for `order_chunks` after an
    instruction. They turn away for `turn_chunks` (12 are 115 degrees) and back, and rest for `rest_chunks` after each
    turn. `play_seeds` of them are played for `play_s` seconds (0 leaves that out). Predictions on a real clip are given
    `history_chunks` of it; it is followed under its own keys for `followed_chunks`. `start` is what worlds begin from:
    the prompt alone, or the recorded moments of the model's gallery.
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
    turn_chunks: int = 12
    rest_chunks: int = 2
    play_s: int = 60
    play_seeds: int = 16
    history_chunks: int = 8
    predictions_per_clip: int = 2
    windows_per_clip: int = 3
    continuations: int = 4
    continuation_chunks: int = 24
    followed_chunks: int = 18
    start: Literal["drawn", "gallery"] = "drawn"

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
            turn_chunks=2,
            rest_chunks=1,
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


@dataclass(frozen=True, kw_only=True)
class Options:
    """Inputs that decide the figures of an evaluation: checkpoint (or a variant), real clips, lengths, networks.

    Real clips are the held-out ones of the curated shards under `data`, else those of the folder `clips`, else there
    are none and what needs them is left out.
    """

    checkpoint: str
    data: str | None = None
    clips: str | None = None
    config: SuiteConfig = field(default_factory=SuiteConfig)
    reference_models: ReferenceModels = field(default_factory=ReferenceModels)

    def real_clips(self) -> list[RealClip]:
        """The real clips that are long enough; raises ValueError or FileNotFoundError for a folder with too few."""
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
        """SHA-256 of the weights under test."""
        return read_card(Variant.parse(self.checkpoint).model)["sha256"][WEIGHTS_FILE]

    def fingerprint(self, clips: list[RealClip]) -> str:
        """Hash of the inputs that decide a task's outcome.

        The length of long play is in the names of its files instead; the number of seeds decides nothing.
        """
        apart = ("num_seeds", "play_seeds", "play_s")
        lengths = {k: v for k, v in to_dict(self.config).items() if k not in apart}
        variant = Variant.parse(self.checkpoint)
        parts = [
            self.weights_sha256(),
            to_dict(variant.config()),
            *([] if variant.precision == "native" else [variant.precision]),
            lengths,
            *(gallery_cards(variant.model) if self.config.start == "gallery" else []),
            fingerprint(clips),
            self.reference_models.sums(),
            load_scenes()[1],
            read_card("idm")["sha256"][WEIGHTS_FILE],
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """Models and clips that the options name, loaded.

    `gallery` and, of curated shards, `training_features` `(N, D)` are there for worlds that begin from the gallery.
    """

    config: SuiteConfig
    model: Model
    text_encoder: TextEncoder
    heads: SceneHeads
    clips: list[RealClip]
    reference_models: ReferenceModels
    gallery: Gallery | None = None
    training_features: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the model's frames in pixels."""
        return self.model.config.width, self.model.config.height


@functools.lru_cache(maxsize=1)
def load_context(options: Options) -> EvaluationContext:
    """Loads models and clips, once a process for equal options.

    Raises ValueError for worlds that are to begin from the gallery of a model without one.
    """
    variant = Variant.parse(options.checkpoint)
    model = variant.load()
    gallery, training = None, None
    if options.config.start == "gallery":
        gallery = find_gallery(model, variant.model)
        resolve_start("gallery", has_picture=False, has_gallery=gallery is not None)
        if options.data:
            training = training_features(options.data, (model.config.width, model.config.height))
    return EvaluationContext(
        config=options.config,
        model=model,
        text_encoder=load_text_encoder(model.config.text_encoder),
        heads=load_scenes()[0],
        clips=options.real_clips(),
        reference_models=options.reference_models,
        gallery=gallery,
        training_features=training,
    )
