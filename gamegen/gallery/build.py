"""Building of a gallery from encoded clips of training worlds: which moments are kept, and how they are stored.

Moments are taken in turn from every world, and within a world from the clip that has given the fewest so far: the best
one first, none that looks like one that is kept already.
"""

from __future__ import annotations

import heapq
import io
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gamegen.curation import shards
from gamegen.curation.encoded import EncodedClip
from gamegen.gallery.gallery import MAX_STARTS, Gallery, GalleryEntry, quantised
from gamegen.media.recorded_start import START_CHUNKS
from gamegen.models.digests import latents_sha256, vae_sha256
from gamegen.models.folding import to_pixels
from gamegen.models.model import Model

SPLIT = "train"
_LEFT_OUT: dict[str, Any] = {"video_prompts": (), "compensated": None, "confidence": None, "instructions": ()}
"""Columns that a start does not need, which would take longest to read."""
_BLOCK_PX = 8
_PERSPECTIVES: dict[str, Literal["first", "third"]] = {"first": "first", "third": "third"}
_LUMINANCE = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, kw_only=True)
class GalleryConfig:
    """Settings of a gallery's choice of moments.

    A moment is looked at every `stride_chunks`, and not within `settle_chunks` after the scene's description changed;
    at most `most_of_clip` of a clip are kept. Luminance and colours go from 0 to 1: the mean luminance is at least
    `min_luminance` and at most `max_luminance`, and at least `min_textured` of the picture's 8x8 blocks differ by
    `min_texture` (a standard deviation) within themselves: skies, water and walls before the eyes do not. Two moments
    look alike if their pictures, scaled to 16x10, differ by less than `min_difference` (root mean square).
    """

    stride_chunks: int = 4
    settle_chunks: int = 6
    most_of_clip: int = 12
    min_luminance: float = 0.08
    max_luminance: float = 0.92
    min_texture: float = 0.02
    min_textured: float = 0.3
    min_difference: float = 0.06
    picture_width_px: int = 120
    picture_quality: int = 50


@dataclass(frozen=True, kw_only=True)
class _Moment:
    """A moment that may be kept: its latents, normalised, its picture and how good that is, from 0 to 1."""

    entry: GalleryEntry
    world: tuple[str, int]
    latents_TCHW: Tensor
    vector_D: Tensor
    picture: bytes
    look: np.ndarray
    score: float


def build_gallery(
    data: Path,
    model: Model,
    card: dict[str, Any],
    num_starts: int = MAX_STARTS,
    config: GalleryConfig = GalleryConfig(),
) -> Gallery:
    """A gallery of at most `num_starts` moments of the encoded clips under `data`, of training worlds only.

    `card` is the model's: its footage and licence are those of the gallery. Raises FileNotFoundError without encoded
    clips, and ValueError for clips that another VAE encoded or if no moment can be used.
    """
    if not 1 <= num_starts <= MAX_STARTS:
        raise ValueError(f"{num_starts} starts: a gallery has 1 to {MAX_STARTS}")
    if not shards.part_files(data):
        raise FileNotFoundError(f"no encoded clips under {data}: encode some first (gamegen encode --help)")
    kept = _spread(_moments(data, model, config), num_starts, config)
    if not kept:
        raise ValueError(f"no moment of the training clips under {data} can be used: encode more of them")
    latents, scales = quantised(torch.stack([m.latents_TCHW for m in kept]).numpy(), (3, 4))
    vectors, _ = quantised(torch.stack([m.vector_D for m in kept]).numpy(), (1,))
    return Gallery(
        entries=tuple(m.entry for m in kept),
        latents=latents,
        scales=scales,
        vectors=vectors,
        pictures=tuple(m.picture for m in kept),
        card={
            "split": SPLIT,
            "worlds": len({m.world for m in kept}),
            "clips": len({m.entry.clip_id for m in kept}),
            "footage": card.get("data", {}).get("footage", "footage of unknown origin"),
            "licence": card.get("licence", "unknown licence"),
            "vae_sha256": vae_sha256(model),
            "latents_sha256": latents_sha256(model),
            "text_encoder": model.config.text_encoder,
        },
    )


def _moments(data: Path, model: Model, config: GalleryConfig) -> Iterator[_Moment]:
    """The best moments of each clip."""
    sha256 = vae_sha256(model)
    for row in shards.read_rows(data, splits=[SPLIT]):
        if row["split"] != SPLIT:
            continue
        if row["vae_sha256"] != sha256 or tuple(row["latent_shape"]) != model.config.latent_shape:
            raise ValueError(
                f"{row['clip_id']} has latents {row['latent_shape']} of VAE {row['vae_sha256'][:16]}..., the model's "
                f"are {list(model.config.latent_shape)} of {sha256[:16]}...: encode the clips with this model"
            )
        found = _moments_of(row, model, config)
        yield from heapq.nlargest(config.most_of_clip, found, key=lambda moment: moment.score)


def _moments_of(row: dict[str, Any], model: Model, config: GalleryConfig) -> Iterator[_Moment]:
    clip = EncodedClip.from_row({**row, **_LEFT_OUT})
    latents = model.normalise(clip.latents.float().to(model.device)).cpu()
    changes = [segment.chunk for segment in clip.segments]
    for chunk in range(START_CHUNKS - 1, clip.num_chunks, config.stride_chunks):
        number = sum(change <= chunk for change in changes) - 1
        if number and chunk - changes[number] < config.settle_chunks:
            continue
        moment_TCHW = latents[chunk + 1 - START_CHUNKS : chunk + 1]
        frame = last_frame(moment_TCHW, model)
        score = score_picture(frame, config)
        if score is None:
            continue
        prompts = row["segments"][number]["prompts"]
        yield _Moment(
            entry=GalleryEntry(
                id=f"{clip.clip_id}-{chunk:04d}",
                caption=prompts[0]["text"],
                perspective=_PERSPECTIVES.get(clip.view[chunk]),
                clip_id=clip.clip_id,
                chunk=chunk,
            ),
            world=(row["game"], row["world_seed"]),
            latents_TCHW=moment_TCHW,
            vector_D=clip.segments[number].prompts[0].pooled,
            picture=_webp(frame, config),
            look=_look(frame),
            score=score,
        )


@torch.inference_mode()
def last_frame(latents_TCHW: Tensor, model: Model) -> np.ndarray:
    """The last frame that normalised latents show, uint8 `(H, W, 3)`."""
    latent = model.denormalise(latents_TCHW.to(model.device))
    return to_pixels(model.vae.decode_streaming(latent[None])[0, -1]).cpu().numpy()


def score_picture(frame: np.ndarray, config: GalleryConfig) -> float | None:
    """How much of a picture shows scenery, from 0 to 1; None for one that is too dark, too bright or nearly uniform."""
    luminance = frame @ _LUMINANCE / 255
    if not config.min_luminance <= luminance.mean() <= config.max_luminance:
        return None
    height, width = (size // _BLOCK_PX for size in luminance.shape)
    blocks = luminance[: height * _BLOCK_PX, : width * _BLOCK_PX].reshape(height, _BLOCK_PX, width, _BLOCK_PX)
    textured = float((blocks.std((1, 3)) >= config.min_texture).mean())
    if textured < config.min_textured:
        return None
    # Half is scenery and sky; a picture that is all texture looks at the ground or into leaves.
    return (1 - abs(textured - 0.65)) * min(1.0, float(luminance.std()) / 0.15)


def _spread(moments: Iterable[_Moment], num_starts: int, config: GalleryConfig) -> list[_Moment]:
    """At most `num_starts` moments, in turn from every world and its clips, the best first and none twice."""
    waiting: dict[tuple[str, int], dict[str, list[_Moment]]] = defaultdict(dict)
    for moment in moments:
        waiting[moment.world].setdefault(moment.entry.clip_id, []).append(moment)
    taken: dict[str, int] = defaultdict(int)
    kept: list[_Moment] = []
    while waiting and len(kept) < num_starts:
        for world in sorted(waiting):
            following = _next(waiting[world], taken, kept, config)
            if following and len(kept) < num_starts:
                kept.append(following)
                taken[following.entry.clip_id] += 1
        waiting = defaultdict(dict, {world: clips for world, clips in waiting.items() if clips})
    return kept


def _next(
    clips: dict[str, list[_Moment]], taken: dict[str, int], kept: list[_Moment], config: GalleryConfig
) -> _Moment | None:
    """Takes a world's next moment that looks like none of `kept`; None, and no clips, if there is none left."""
    while clips:
        clip_id = min(clips, key=lambda name: (taken[name], name))
        moment = clips[clip_id].pop(0)
        if not clips[clip_id]:
            del clips[clip_id]
        if not kept or _nearest(moment, kept) >= config.min_difference:
            return moment
    return None


def _nearest(moment: _Moment, kept: list[_Moment]) -> float:
    differences = np.stack([other.look for other in kept]) - moment.look
    return float(np.sqrt(np.square(differences).mean(1)).min())


def _look(frame: np.ndarray) -> np.ndarray:
    small = Image.fromarray(frame).resize((16, 10), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / 255


def _webp(frame: np.ndarray, config: GalleryConfig) -> bytes:
    height = round(config.picture_width_px * frame.shape[0] / frame.shape[1])
    picture = Image.fromarray(frame).resize((config.picture_width_px, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=config.picture_quality, method=6)
    return buffer.getvalue()
