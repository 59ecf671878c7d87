"""Recorded starts and galleries of random latents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gamegen.curation import encoded, shards
from gamegen.gallery.build import build_gallery
from gamegen.gallery.gallery import Gallery, quantised
from gamegen.media.recorded_start import RecordedStart
from gamegen.models.digests import latents_sha256, vae_sha256
from gamegen.models.model import Model
from gamegen.models.text import TextEncoder
from tests.footage_samples import panning_frames
from tests.training.samples import NUM_CHUNKS, curated_folder, encoded_row

PLACES = ("snowy forest at night", "sandy desert at noon", "green meadow in the rain")
CARD = {"data": {"footage": "a game of ours"}, "licence": "CC0-1.0"}


def random_start(model: Model, mirrored: bool = False) -> RecordedStart:
    """A start of the model's latents."""
    values = np.random.default_rng(3).normal(size=(2, *model.config.latent_shape)).astype(np.float32)
    latents, scales = quantised(values, (2, 3))
    return RecordedStart(
        id="clip-0004",
        caption="a meadow",
        credit="a game of ours (CC0-1.0)",
        latents_sha256=latents_sha256(model),
        latents=latents,
        scales=scales,
        mirrored=mirrored,
    )


def encoded_rows(model: Model, encoder: TextEncoder) -> list[dict[str, Any]]:
    """Rows of six clips in three worlds, one of each of `PLACES`; the last world's are in the validation split."""
    rows = []
    for number in range(6):
        view = ("first", "third")[number % 2]
        caption = f"{view}-person, {PLACES[number // 2]}"
        tokens = encoder.encode([caption])[0].tokens.numpy().astype(np.float16)
        row = encoded_row(number)
        row |= {
            "clip_id": f"clip-{number}",
            "world_seed": number // 2,
            "split": "validation" if number // 2 == 2 else "train",
            "vae_sha256": vae_sha256(model),
            "view": [view] * row["num_chunks"],
            "segments": [{"chunk": 0, "prompts": [{"text": caption, "tokens": tokens.tobytes()}]}],
        }
        rows.append(row)
    return rows


def write_encoded(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """Writes each row as a shard of its split."""
    for row in rows:
        table = pa.Table.from_pylist([row], schema=encoded.SCHEMA)
        shards.write_part(folder, row["split"], row["bucket"], table)
    return folder


def write_clips(folder: Path, num_clips: int = 6) -> Path:
    """Curated clips of the same names, each of other frames; their latents are not those of `encoded_rows`."""
    wide = [panning_frames(4 * NUM_CHUNKS, seed=number) for number in range(num_clips)]
    return curated_folder(folder, [frames[:, :32, :32] for frames in wide])


def tiny_gallery(folder: Path, model: Model, encoder: TextEncoder) -> Gallery:
    """A gallery built from `encoded_rows` and `write_clips`."""
    data = write_encoded(folder / "encoded", encoded_rows(model, encoder))
    return build_gallery(data, write_clips(folder / "curated"), model, CARD)
