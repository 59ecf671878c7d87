"""Encoding of clips: latents and text states ready for training, one Parquet row a clip, with its video as it was.

Operations are aligned to the frames they show in: the operation recorded at row i shows first in frame i + 1, so
the chunk of frames 4j..4j+3 carries rows 4j-1..4j+2, and nothing (all zeros) stands before row 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from gamegen.constants import FRAMES_PER_CHUNK
from gamegen.controls import operation_array
from gamegen.curation.encoded_clip import compensated_columns
from gamegen.footage import captions
from gamegen.footage.clips import Clip
from gamegen.media.mp4 import read_mp4
from gamegen.media.prompt_pictures import KINDS
from gamegen.models.model import Model
from gamegen.models.text import TextEncoder
from gamegen.models.vae import encode_frames

FULL_PROMPTS = 4
_STATES = pa.struct([("text", pa.string()), ("tokens", pa.binary())])
_TRUTH = ("biome", "weather", "time_of_day", "view")
ALIKE = {"dusk": "twilight", "dawn": "twilight"}
"""True values that no single picture tells apart, with the label that stands for them."""
SETTLED_CHUNKS = 3
"""Chunks after which a change has taken effect, so that a segment's prompts describe what is seen then."""
SCHEMA = pa.schema(
    [
        ("clip_id", pa.string()),
        ("split", pa.string()),
        ("bucket", pa.string()),
        ("game", pa.string()),
        ("world_seed", pa.int64()),
        ("vae_sha256", pa.string()),
        ("num_chunks", pa.int32()),
        ("latent_shape", pa.list_(pa.int32())),
        ("latents", pa.large_binary()),
        ("operations", pa.binary()),
        ("segments", pa.list_(pa.struct([("chunk", pa.int32()), ("prompts", pa.list_(_STATES))]))),
        (
            "instructions",
            pa.list_(pa.struct([("chunk", pa.int32()), ("kind", pa.string()), ("states", _STATES)])),
        ),
    ]
    + [(name, pa.list_(pa.string())) for name in _TRUTH]
    + [("video_prompts", pa.list_(pa.struct([("kind", pa.string()), ("latents", pa.large_binary())])))]
    + [("heading_deg", pa.list_(pa.float32())), ("position", pa.list_(pa.list_(pa.float32())))]
    + [(name, pa.large_binary()) for name in ("compensated", "confidence", "carried", "video")]
)


def aligned_operations(clip: Clip, num_chunks: int) -> np.ndarray:
    """The clip's operations as its chunks show them, float16 `(num_chunks, 4, OPERATION_SIZE)`.

    Raises ValueError for a clip without keys.
    """
    if len(clip.keys) != clip.num_frames:
        raise ValueError(f"{clip.clip_id} has no keys: label it first (gamegen idm label --help)")
    recorded = operation_array(clip.keys, clip.yaw_deg, clip.pitch_deg)
    shown = np.concatenate([np.zeros_like(recorded[:1]), recorded[:-1]])
    return shown[: num_chunks * FRAMES_PER_CHUNK].reshape(num_chunks, FRAMES_PER_CHUNK, -1).astype(np.float16)


def encode_row(
    row: dict[str, Any],
    model: Model,
    text_encoder: TextEncoder,
    vae_sha256: str,
    video_prompts: Sequence[str] = (),
) -> dict[str, Any]:
    """One curated row (clip columns, `video`, `bucket`, `split`) as one row of `SCHEMA`.

    `video_prompts` names kinds of `gamegen.media.prompt_pictures.KINDS` to encode with it. With a motion network the
    row also holds the motion-compensated latents.
    """
    vae = model.vae
    clip = Clip.from_row({name: row[name] for name in Clip.__dataclass_fields__})
    frames = read_mp4(row["video"])
    latents = encode_frames(frames, vae)
    n = len(latents)
    last_frames = [j * FRAMES_PER_CHUNK + FRAMES_PER_CHUNK - 1 for j in range(n)]
    truth = {
        name: [getattr(clip, name)[f] for f in last_frames] for name in (*_TRUTH, "heading_deg", "position")
    }
    operations = aligned_operations(clip, n)
    pack = lambda text: _packed(text, text_encoder)  # noqa: E731
    return {
        **{name: row[name] for name in ("clip_id", "split", "bucket", "game", "world_seed")},
        "vae_sha256": vae_sha256,
        "video": row["video"],
        "num_chunks": n,
        "latent_shape": list(latents.shape[1:]),
        "latents": latents.tobytes(),
        "video_prompts": [
            {"kind": kind, "latents": encode_frames(KINDS[kind](frames), vae).tobytes()}
            for kind in video_prompts
        ],
        "operations": operations.tobytes(),
        "segments": [
            {"chunk": chunk, "prompts": [pack(text) for text in prompts]}
            for chunk, prompts in segment_prompts(clip, n)
        ],
        "instructions": [
            {"chunk": _first_chunk(i.frame), "kind": i.kind, "states": pack(i.text)}
            for i in clip.instructions
            if _first_chunk(i.frame) < n
        ],
        **truth,
        **(compensated_columns(model, frames, operations) if model.motion else {}),
    }


def segment_prompts(clip: Clip, num_chunks: int) -> list[tuple[int, list[str]]]:
    """(first chunk, prompts) of every stretch of a clip between its instructions."""
    starts = [0] + [_first_chunk(i.frame) for i in clip.instructions if _first_chunk(i.frame) < num_chunks]
    rng = Random(clip.clip_id)
    segments = []
    for chunk in starts:
        f = min((chunk + SETTLED_CHUNKS) * FRAMES_PER_CHUNK, clip.num_frames - 1)
        facts = captions.Facts(clip.game, clip.biome[f], clip.weather[f], clip.time_of_day[f], clip.view[f])
        full = clip.prompts if chunk == 0 else captions.compose_prompts(facts, rng, FULL_PROMPTS)
        segments.append((chunk, [*full[:FULL_PROMPTS], *captions.compose_short_prompts(facts, rng)]))
    return segments


def _first_chunk(frame: int) -> int:
    """The chunk that first shows what happened at `frame`."""
    return (frame + 1) // FRAMES_PER_CHUNK


def _packed(text: str, text_encoder: TextEncoder) -> dict[str, Any]:
    tokens = text_encoder.encode([text])[0].tokens
    return {"text": text, "tokens": tokens.numpy().astype(np.float16).tobytes()}
