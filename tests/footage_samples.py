"""Small made-up footage for tests: real MP4s beside a real clip table."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from gamegen.files import file_sha256
from gamegen.footage.clips import CAPTION_FIELDS, INSTRUCTION_FIELDS, Clip, Instruction, write_table
from gamegen.media.mp4 import encode_mp4

WIDTH, HEIGHT, NUM_FRAMES = 128, 72, 48


def panning_frames(num_frames: int = NUM_FRAMES, seed: int = 0) -> np.ndarray:
    """A camera that pans over blobs of colour by 2 pixels a frame, uint8 `(T, 72, 128, 3)`."""
    coarse = np.random.default_rng(seed).integers(30, 226, (9, 64, 3), np.uint8)
    wide = cv2.resize(coarse, (512, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.stack([wide[:, 2 * i : 2 * i + WIDTH] for i in range(num_frames)])


def make_clip(folder: Path, name: str, frames: np.ndarray, world_seed: int = 1, **changes: object) -> Clip:
    """Writes `frames` as an MP4 into `folder` and returns the clip that describes it, with `changes`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.mp4"
    path.write_bytes(encode_mp4(frames, 24))
    num_frames = len(frames)
    values = {
        "clip_id": name,
        "path": path.name,
        "sha256": file_sha256(path),
        "size_bytes": path.stat().st_size,
        "game": "sample",
        "licence": "CC0-1.0",
        "world_seed": world_seed,
        "fps": 24,
        "width": frames.shape[2],
        "height": frames.shape[1],
        "num_frames": num_frames,
        "perspective": "first",
        "keys": [["w"] if i % 2 else [] for i in range(num_frames)],
        "yaw_deg": [0.1 * i for i in range(num_frames)],
        "pitch_deg": [0.0] * num_frames,
        "biome": ["mushroom forest"] * num_frames,
        "weather": ["clear"] * (num_frames // 2) + ["rain"] * (num_frames - num_frames // 2),
        "time_of_day": ["noon"] * num_frames,
        "view": ["first"] * num_frames,
        "position": [[float(i), 2.0, 0.0] for i in range(num_frames)],
        "heading_deg": [0.1 * i for i in range(num_frames)],
        "tilt_deg": [0.0] * num_frames,
        "prompts": ["first-person, forest at noon", "a walk in a forest"],
        "caption": {field: f"{field} of {name}" for field in CAPTION_FIELDS},
        "instructions": [
            Instruction(
                num_frames // 2 - 1, "weather", "make it rain", dict.fromkeys(INSTRUCTION_FIELDS, "x")
            )
        ],
    }
    return Clip(**{**values, **changes})  # type: ignore[arg-type]


def write_footage(folder: Path, clips: list[Clip], table: str = "clips.parquet") -> Path:
    """Writes the clip table of `clips` into `folder`."""
    write_table(clips, folder / table)
    return folder
