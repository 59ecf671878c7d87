"""Buckets (clips of one size that can share a batch) and splits (which worlds are held out)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import cv2
import numpy as np

SPLITS = ("train", "validation", "test")
World = tuple[str, int]
"""A game and a world seed: the unit that is held out, so that no place is in two splits."""


@dataclass(frozen=True)
class BucketConfig:
    """Sizes (width, height) in pixels and lengths in frames that clips are sorted into.

    A clip goes to the size nearest to its own aspect ratio and to the longest length that it fills;
    it keeps all its frames, the length is what every clip of the bucket has at least.
    Sizes must be multiples of 16 (8x8 latents, 2x2 patches), lengths of 4 (one latent frame).
    """

    sizes: tuple[tuple[int, int], ...] = ((160, 96),)
    lengths: tuple[int, ...] = (480, 240, 120, 48)

    def __post_init__(self) -> None:
        if not self.sizes or not self.lengths:
            raise ValueError("buckets need at least one size and one length")
        for width, height in self.sizes:
            if width < 16 or height < 16 or width % 16 or height % 16:
                raise ValueError(f"bucket size {width}x{height}: both sides must be multiples of 16")
        for length in self.lengths:
            if length < 4 or length % 4:
                raise ValueError(f"bucket length {length}: must be a multiple of 4 frames")


@dataclass(frozen=True)
class Bucket:
    """A size in pixels and the frames that each of its clips has at least."""

    width: int
    height: int
    num_frames: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.num_frames}"

    @classmethod
    def parse(cls, name: str) -> Bucket:
        """The inverse of `str(bucket)`. Raises ValueError for anything but WIDTHxHEIGHTxFRAMES."""
        parts = name.split("x")
        if len(parts) != 3 or not all(part.isdigit() for part in parts):
            raise ValueError(f"bucket {name!r}: expected WIDTHxHEIGHTxFRAMES, for example 160x96x480")
        return cls(*map(int, parts))


def choose_bucket(width: int, height: int, num_frames: int, config: BucketConfig) -> Bucket | None:
    """The bucket for a clip, or None if it is shorter than every length.

    Among sizes of (nearly) the same aspect ratio it takes the largest that needs no enlarging.
    """
    lengths = [length for length in config.lengths if length <= num_frames]
    if not lengths:
        return None

    def unfitness(size: tuple[int, int]) -> tuple[float, bool, int]:
        stretch = abs(np.log((size[0] / size[1]) / (width / height)))
        return round(float(stretch), 2), size[0] > width or size[1] > height, -size[0] * size[1]

    return Bucket(*min(config.sizes, key=unfitness), max(lengths))


def fit_to_bucket(frames: np.ndarray, bucket: Bucket) -> np.ndarray:
    """Frames uint8 `(T, H, W, 3)` or `(T, H, W)` cropped about their centre to the bucket's aspect, then resized to it.

    Shrinking averages areas: every source pixel counts, so fine texture turns to its mean, not to noise.
    """
    height, width = frames.shape[1:3]
    crop_width = min(width, round(height * bucket.width / bucket.height))
    crop_height = min(height, round(width * bucket.height / bucket.width))
    left, top = (width - crop_width) // 2, (height - crop_height) // 2
    cropped = frames[:, top : top + crop_height, left : left + crop_width]
    if (crop_width, crop_height) == (bucket.width, bucket.height):
        return np.ascontiguousarray(cropped)
    how = cv2.INTER_AREA if crop_width >= bucket.width else cv2.INTER_CUBIC
    return np.stack([cv2.resize(f, (bucket.width, bucket.height), interpolation=how) for f in cropped])


def assign_splits(worlds: Iterable[World], known: Mapping[World, str]) -> dict[World, str]:
    """A split for every world: about 90 % train, 5 % validation, 5 % test, by a hash of the world.

    `known` holds earlier decisions, which stand. With few worlds the hash may hold out none: then the
    new worlds nearest to a held-out share are moved there, validation first, as long as train keeps one.
    """
    splits = dict(known)
    new = sorted({w for w in worlds if w not in known}, key=_position)
    for world in new:
        position = _position(world)
        splits[world] = "train" if position < 0.90 else "validation" if position < 0.95 else "test"
    for needed in ("validation", "test"):
        movable = [world for world in new if splits[world] == "train"]
        num_train = sum(split == "train" for split in splits.values())
        if needed not in splits.values() and movable and num_train > 1:
            splits[movable[-1]] = needed
    return splits


def _position(world: World) -> float:
    digest = hashlib.blake2b(f"{world[0]}:{world[1]}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
