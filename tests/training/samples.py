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
from gamegen.media.mp4 import encode_mp4
from gamegen.models.model import Model, ModelConfig
from gamegen.training.feed import Feed
from gamegen.training.loop import Run, Trainer
from gamegen.training.objectives.flow_matching import FlowLossConfig
from gamegen.training.optimisers import OptimiserConfig
from gamegen.training.stage_config import TrainingBucket
from gamegen.training.stages.stage import Stage
from gamegen.training.stages.table import STAGES
from gamegen.training.stages.turbo import TurboConfig
from gamegen.training.window_plan import WindowPlan, index_clips
from tests.footage_samples import make_clip, panning_frames

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


def keyed_row(
    frames: np.ndarray, keys: list[list[str]], yaw_deg: list[float], name: str = "clip"
) -> dict[str, Any]:
    """The columns of a curated row that hold its video and its operations."""
    return {
        "clip_id": name,
        "video": encode_mp4(frames, 24, pixel_format="yuv444p"),
        "num_frames": len(frames),
        "keys": keys,
        "yaw_deg": yaw_deg,
        "pitch_deg": [0.0] * len(frames),
    }


def panning_folder(folder: Path) -> Path:
    """Curated clips of cameras that pan right with d held (even ones) or left with a held (odd ones)."""
    videos, facts = [], []
    for seed in range(4):
        frames = panning_frames(24, seed)
        right = seed % 2 == 0
        videos.append(frames if right else frames[::-1].copy())
        facts.append({"keys": [["d" if right else "a"]] * 24, "yaw_deg": [1.2 if right else -1.2] * 24})
    return curated_folder(folder, videos, facts)


def stage(name: str, **changes: Any) -> Any:
    """A stage of six steps, with changes to its settings."""
    settings: dict[str, Any] = {
        "steps": 6,
        "batch_size": 2,
        "buckets": WINDOWS,
        "save_every": 3,
        "log_every": 1,
        "optimiser": OptimiserConfig(warmup_steps=1),
    }
    if name == "turbo":
        settings["turbo"] = TurboConfig(num_levels=4)
    return STAGES[name](**settings | changes)


def latent_feed(config: Stage, data: Path, worker: int = 0, num_workers: int = 1) -> Feed:
    """The batches of a stage over a folder of encoded shards."""
    windows = config.windows(ModelConfig.tiny())
    plan = WindowPlan(config, index_clips(data, "train", windows.length_column))
    return Feed(plan, windows, worker=worker, num_workers=num_workers)


def trainer(config: Stage, folder: Path, data: Path, worker: int = 0, num_workers: int = 1) -> Trainer:
    """A trainer of a tiny model, always begun from the same weights."""
    torch.manual_seed(0)
    model_config = ModelConfig.tiny()
    if config.stage == "foundation":
        model_config = dataclasses.replace(model_config, instructnet=None)
    objective = config.objective(Model(model_config))
    feed = latent_feed(config, data, worker, num_workers)
    return Trainer(objective, config, Run(output=folder, show_progress=False), feed)


def plain_flow(**changes: Any) -> FlowLossConfig:
    """The objective with some of its parts changed."""
    return dataclasses.replace(FlowLossConfig(), **changes)
