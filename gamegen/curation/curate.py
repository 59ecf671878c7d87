"""From recorded clips to shards: what to do (`plan`), and one shard's worth of doing it (`curate_shard`).

A plan is small and a step is self-contained, so any scheduler can run the steps anywhere that sees the
two folders; finished work is recognised by what lies in the output folder.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gamegen.curation import buckets, filters, shards
from gamegen.curation.buckets import Bucket, BucketConfig
from gamegen.curation.filters import FilterConfig
from gamegen.curation.shards import RejectedClip
from gamegen.footage import clips
from gamegen.footage.clips import Clip
from gamegen.footage.depth import DEPTH_CELL_PX, depth_cells
from gamegen.media.footage import read_footage
from gamegen.media.mp4 import encode_mp4
from gamegen.media.size import Size


@dataclass(frozen=True)
class CurationConfig:
    """How clips are judged, sorted and stored.

    `crf` and `keyframe_interval` (frames) are x264's; `pixel_format` yuv444p keeps the colour of small
    pictures at full resolution, which matters more at 160x96 than the bytes that it costs.
    """

    filters: FilterConfig = field(default_factory=FilterConfig)
    buckets: BucketConfig = field(default_factory=BucketConfig)
    clips_per_shard: int = 16
    crf: int = 14
    keyframe_interval: int = 48
    pixel_format: str = "yuv444p"

    def __post_init__(self) -> None:
        if self.clips_per_shard < 1:
            raise ValueError(f"clips_per_shard = {self.clips_per_shard}: must be at least 1")
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf = {self.crf}: x264 takes 0 (best) to 51")


@dataclass(frozen=True)
class ShardPlan:
    """Clips of one split that one task turns into one shard a bucket: table files and the ids in them."""

    split: str
    tables: list[str]
    clip_ids: list[str]


@dataclass(frozen=True)
class ShardResult:
    """What became of a plan: kept clips, their seconds of video, and the rejects."""

    num_kept: int
    seconds_kept: float
    rejected: list[RejectedClip]


def plan(source: Path, output: Path, config: CurationConfig) -> list[ShardPlan]:
    """The shards still to be made: clips in `source`'s tables that are neither in `output` nor rejected.

    Reads only light columns, and only complete tables, so recording may go on meanwhile.
    Raises FileNotFoundError if `source` holds no table at all.
    """
    files = clips.table_files(source)
    if not files:
        raise FileNotFoundError(f"no clip table under {source}: record footage first (gamegen record --help)")
    known = {
        (row["game"], row["world_seed"]): row["split"]
        for row in shards.read_rows(output, ["game", "world_seed", "split"])
    }
    done = {row["clip_id"] for row in shards.read_rows(output, ["clip_id"])}
    refused = {(clip.clip_id, clip.source_sha256) for clip in shards.read_rejected(output)}
    rows = []
    for file in files:
        for row in pq.ParquetFile(file).read(["clip_id", "sha256", "game", "world_seed"]).to_pylist():
            if row["clip_id"] not in done and (row["clip_id"], row["sha256"]) not in refused:
                done.add(row["clip_id"])
                rows.append({**row, "table": str(file)})
    splits = buckets.assign_splits([(row["game"], row["world_seed"]) for row in rows], known)
    by_split: dict[str, list[dict]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["clip_id"]):
        by_split[splits[row["game"], row["world_seed"]]].append(row)
    return [
        ShardPlan(split, sorted({row["table"] for row in group}), [row["clip_id"] for row in group])
        for split, members in sorted(by_split.items())
        for group in _groups(members, config.clips_per_shard)
    ]


def curate_shard(step: ShardPlan, source: Path, output: Path, config: CurationConfig) -> ShardResult:
    """Carries out one step of a plan: decodes, judges, resizes and writes the clips that are good."""
    ids = set(step.clip_ids)
    members = {
        clip.clip_id: (clip, _video_path(clip, Path(table), source))
        for table in step.tables
        for clip in clips.read_table(Path(table))
        if clip.clip_id in ids
    }
    kept: dict[str, list[dict]] = defaultdict(list)
    rejected: list[RejectedClip] = []
    for clip_id in step.clip_ids:
        outcome = curate_clip(*members[clip_id], step.split, config)
        if isinstance(outcome, RejectedClip):
            rejected.append(outcome)
        else:
            kept[outcome["bucket"]].append(outcome)
    for bucket, rows in kept.items():
        shards.write_part(output, step.split, bucket, pa.Table.from_pylist(rows, schema=shards.SCHEMA))
    seconds = [row["num_frames"] / row["fps"] for rows in kept.values() for row in rows]
    return ShardResult(len(seconds), sum(seconds), rejected)


def curate_clip(clip: Clip, video: Path, split: str, config: CurationConfig) -> dict | RejectedClip:
    """A row of `shards.SCHEMA`, or why there is none (broken, short, black, frozen or near-static)."""

    def reject(reason: str, detail: str) -> RejectedClip:
        return RejectedClip(clip.clip_id, clip.sha256, clip.path, reason, detail)

    bucket = buckets.choose_bucket(clip.width, clip.height, clip.num_frames, config.buckets)
    if bucket is None:
        return reject("short", f"{clip.num_frames} frames, at least {min(config.buckets.lengths)}")
    try:
        data = video.read_bytes()
        if hashlib.sha256(data).hexdigest() != clip.sha256:
            return reject("broken", "SHA-256 differs from the clip table's")
        frames = read_footage(data)
    except (OSError, ValueError) as error:
        return reject("broken", str(error))
    found = len(frames), Size(frames.shape[2], frames.shape[1])
    if found != (clip.num_frames, (clip.width, clip.height)):
        said = f"{clip.num_frames} frames of {clip.width}x{clip.height}"
        return reject("broken", f"it shows {found[0]} frames of {found[1]}, the clip table says {said}")
    frames = buckets.fit_to_bucket(frames, bucket)
    verdict = filters.rejection(filters.measure(frames, config.filters), config.filters)
    if verdict is not None:
        return reject(*verdict)
    return _row(clip, frames_to_video(frames, clip.fps, config), bucket, split)


def frames_to_video(frames: np.ndarray, fps: int, config: CurationConfig) -> bytes:
    """The shard's MP4 of uint8 frames `(T, H, W, 3)`."""
    return encode_mp4(
        frames,
        fps,
        crf=config.crf,
        keyframe_interval=config.keyframe_interval,
        pixel_format=config.pixel_format,
    )


def _row(clip: Clip, video: bytes, bucket: Bucket, split: str) -> dict:
    return {
        **clip.to_row(),
        "width": bucket.width,
        "height": bucket.height,
        "sha256": hashlib.sha256(video).hexdigest(),
        "size_bytes": len(video),
        "video": video,
        "inverse_depth": _fitted_depth(clip, bucket),
        "vertical_fov_deg": _fitted_fov_deg(clip, bucket),
        "bucket": str(bucket),
        "split": split,
        "source_sha256": clip.sha256,
    }


def _fitted_depth(clip: Clip, bucket: Bucket) -> bytes | None:
    """The clip's inverse depth, cropped and resized like its frames."""
    if clip.inverse_depth is None:
        return None
    depth = depth_cells(clip.inverse_depth, clip.num_frames, clip.width, clip.height)
    cells = replace(bucket, width=bucket.width // DEPTH_CELL_PX, height=bucket.height // DEPTH_CELL_PX)
    return buckets.fit_to_bucket(depth, cells).tobytes()


def _fitted_fov_deg(clip: Clip, bucket: Bucket) -> float | None:
    """The clip's vertical field of view after its frames are cropped to the bucket's aspect."""
    if clip.vertical_fov_deg is None:
        return None
    share = min(1.0, clip.width * bucket.height / bucket.width / clip.height)
    return float(np.degrees(2 * np.arctan(share * np.tan(np.radians(clip.vertical_fov_deg) / 2))))


def _groups(rows: list[dict], size: int) -> list[list[dict]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _video_path(clip: Clip, table: Path, source: Path) -> Path:
    """Paths are relative to the table's folder; tables gathered in a subfolder may count from the top."""
    beside = table.parent / clip.path
    return beside if beside.exists() else source / clip.path
