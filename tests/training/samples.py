"""Encoded clips of random latents in real shards, and trainers over them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from gamegen.curation import encoded, shards
from gamegen.models.checkpoint import Model, ModelConfig
from gamegen.training.config import FlowLossConfig, OptimiserConfig, StageConfig, TrainingBucket, TurboConfig
from gamegen.training.data import Feed
from gamegen.training.latents import LatentWindows
from gamegen.training.loop import Run, Trainer
from gamegen.training.objectives import build_objective
from gamegen.training.plan import Plan, index_clips
from tests.footage_samples import make_clip

NUM_CHUNKS = 20
SIZE = "32x32"
WINDOWS = (TrainingBucket(SIZE, 12, 0.75), TrainingBucket(SIZE, 1, 0.25))


def encoded_row(seed: int, num_chunks: int = NUM_CHUNKS) -> dict[str, Any]:
    """A row whose second half follows an instruction."""
    rng = np.random.default_rng(seed)

    def text(k: int) -> dict[str, Any]:
        tokens = np.random.default_rng((seed, k)).normal(size=(3 + (seed + k) % 3, 384))
        return {"text": f"{seed}-{k}", "tokens": tokens.astype(np.float16).tobytes()}

    return {
        "clip_id": str(seed),
        "split": "train",
        "bucket": f"{SIZE}x{4 * num_chunks}",
        "game": "minetest",
        "world_seed": seed,
        "vae_sha256": "0",
        "num_chunks": num_chunks,
        "latent_shape": [4, 4, 4],
        "latents": rng.normal(size=(num_chunks, 4, 4, 4)).astype(np.float16).tobytes(),
        "operations": rng.normal(size=(num_chunks, 4, 9)).astype(np.float16).tobytes(),
        "segments": [
            {"chunk": 0, "prompts": [text(0), text(1)]},
            {"chunk": num_chunks // 2, "prompts": [text(2)]},
        ],
        "instructions": [{"chunk": num_chunks // 2, "kind": "time", "states": text(3)}],
        **{name: ["x"] * num_chunks for name in ("biome", "weather", "time_of_day", "view")},
        "heading_deg": [0.0] * num_chunks,
        "position": [[0.0, 0.0, 0.0]] * num_chunks,
    }


def write_rows(folder: Path, rows: list[dict[str, Any]], clips_per_shard: int = 2) -> Path:
    """Writes rows as training shards."""
    for start in range(0, len(rows), clips_per_shard):
        table = pa.Table.from_pylist(rows[start : start + clips_per_shard], schema=encoded.SCHEMA)
        shards.write_part(folder, "train", rows[start]["bucket"], table)
    return folder


def encoded_folder(folder: Path, num_clips: int = 3) -> Path:
    """A few clips, each different."""
    return write_rows(folder, [encoded_row(seed) for seed in range(num_clips)])


def curated_folder(
    folder: Path, videos: list[np.ndarray], facts: Sequence[dict[str, Any]] | None = None
) -> Path:
    """Videos, uint8 `(T, H, W, 3)`, as curated training shards; `facts` are columns of each clip's row."""
    for i, frames in enumerate(videos):
        clip = make_clip(folder / "videos", f"clip-{i}", frames, world_seed=i, **(facts[i] if facts else {}))
        bucket = f"{frames.shape[2]}x{frames.shape[1]}x{len(frames)}"
        row = clip.to_row() | {
            "video": (folder / "videos" / clip.path).read_bytes(),
            "bucket": bucket,
            "split": "train",
            "source_sha256": clip.sha256,
        }
        shards.write_part(folder, "train", bucket, pa.Table.from_pylist([row], schema=shards.SCHEMA))
    return folder


def stage(name: str, **changes: Any) -> StageConfig:
    """A stage of six steps."""
    config = StageConfig(
        name,  # type: ignore[arg-type]
        steps=6,
        batch_size=2,
        buckets=WINDOWS,
        save_every=3,
        log_every=1,
        optimiser=OptimiserConfig(warmup_steps=1),
        turbo=TurboConfig(num_levels=4),
    )
    return dataclasses.replace(config, **changes)


def latent_feed(config: StageConfig, data: Path, worker: int = 0, num_workers: int = 1) -> Feed:
    """The batches of a stage over a folder of encoded shards."""
    kind = LatentWindows(config.flow, ModelConfig.tiny())
    return Feed(Plan(config, index_clips(data, "train", kind.length_column)), kind, None, worker, num_workers)


def trainer(config: StageConfig, folder: Path, data: Path, worker: int = 0, num_workers: int = 1) -> Trainer:
    """A trainer of a tiny model, always begun from the same weights."""
    torch.manual_seed(0)
    model_config = ModelConfig.tiny()
    if config.stage == "foundation":
        model_config = dataclasses.replace(model_config, instructnet=None)
    objective = build_objective(Model(model_config), config)
    feed = latent_feed(config, data, worker, num_workers)
    return Trainer(objective, config, Run(folder, show_progress=False), feed)


def plain_flow(**changes: Any) -> FlowLossConfig:
    """The objective with some of its parts changed."""
    return dataclasses.replace(FlowLossConfig(), **changes)
